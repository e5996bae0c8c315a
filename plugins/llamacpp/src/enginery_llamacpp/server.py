"""A drop-in ``llama-server`` out of the prebuilt ``xllamacpp`` wheel: no compiler needed.

    python -m enginery_llamacpp.server --model x.gguf [any llama-server flag or LLAMA_ARG_* variable]

Knows: how to hand a command line to llama.cpp and when to leave. Does not know: requests, HTTP or
the framework; slots, streaming and errors are llama.cpp's own C++. It imports the standard library
and the wheel, nothing else, so that it starts in about 60 ms.

The wheel is a library, but its shared object exports llama.cpp's own parser,
``common_params_parse``. The parser fills a C++ struct that lies somewhere inside the wheel's Python
object. `locate_params` finds it by writing four known numbers and looking for them, so every flag,
variable, ``--help`` and error text is genuine. Parser and struct are compiled into one file: they
always agree with each other. Where the parser or the struct cannot be found with certainty, or
``ENGINERY_LLAMACPP_ARGPARSE=1`` is set, a small subset of the flags is understood instead.

Exit codes are llama-server's: 0 after SIGTERM or SIGINT, 1 for a wrong argument, a model that does
not load or a port in use. The router mode (no model given) does not exist here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

__all__ = ["ARGPARSE_VARIABLE", "main"]

ARGPARSE_VARIABLE = "ENGINERY_LLAMACPP_ARGPARSE"
PARSER_SYMBOL = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
INIT_SYMBOL = "_Z11common_initv"
LOG_SYMBOL = "_Z15common_log_mainv"
FLUSH_SYMBOL = "_Z16common_log_flushP10common_log"
EXAMPLE_SERVER = 12  # enum llama_example in llama.cpp's common/common.h; a wrong one refuses --host
PROBED_FIELDS = ("n_predict", "n_ctx", "n_batch", "n_ubatch")  # the struct's first four integers
PROBE = (0x51A1, 0x52B2, 0x53C3, 0x54D4)
PROBED_BYTES = 96


def main(argv: Sequence[str]) -> int:
    """Run the server until a signal; returns the exit code when it could not start."""
    try:
        import xllamacpp
    except ImportError as error:
        say(f"llama.cpp is not bundled ({error}): pip install 'enginery-llamacpp[bundled]'")
        return 1
    params = xllamacpp.CommonParams()
    params.n_parallel = -1
    params.port = 8080  # llama-server's default; the wheel's is 0
    if not parse(xllamacpp, params, argv):
        return 1
    if not params.model.path:
        say("no --model given (the router mode needs a llama-server of your own)")
        return 1
    return serve(xllamacpp, params)


def parse(wheel: Any, params: Any, argv: Sequence[str]) -> bool:
    """Fill ``params`` from the command line; False when an argument is wrong, which was printed."""
    if not os.environ.get(ARGPARSE_VARIABLE):
        library = load_library()
        address = locate_params(params)
        if address is not None and hasattr(library, PARSER_SYMBOL):
            return parse_natively(library, address, argv)
        version = getattr(wheel, "__version__", "unknown")
        say(f"xllamacpp {version} has another layout than expected: only common flags are read;")
        say("for all of them: pip install 'enginery-llamacpp[bundled]', which pins the right one")
    return parse_subset(wheel, params, argv)


def load_library() -> ctypes.CDLL:
    """The wheel's shared object, which is loaded already."""
    return ctypes.CDLL(sys.modules["xllamacpp.xllamacpp"].__file__)


def locate_params(params: Any) -> int | None:
    """The address of the C++ struct inside ``params``; None when it is not exactly one place."""
    before = [getattr(params, name) for name in PROBED_FIELDS]
    try:
        for name, value in zip(PROBED_FIELDS, PROBE, strict=True):
            setattr(params, name, value)
        raw = ctypes.string_at(id(params), PROBED_BYTES)
    finally:
        for name, value in zip(PROBED_FIELDS, before, strict=True):
            setattr(params, name, value)
    pattern = struct.pack("<4i", *PROBE)
    offset = raw.find(pattern)
    # After the object's header, aligned as a struct that holds pointers is.
    if offset < object.__basicsize__ or offset % 8 or raw.count(pattern) != 1:
        return None
    return id(params) + offset


def parse_natively(library: ctypes.CDLL, address: int, argv: Sequence[str]) -> bool:
    """llama.cpp's own parser; ``--help`` and ``--version`` print and end the process there."""
    if hasattr(library, INIT_SYMBOL):
        getattr(library, INIT_SYMBOL)()  # its log format, as in llama-server
    parser = getattr(library, PARSER_SYMBOL)
    parser.restype = ctypes.c_bool
    parser.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    words = [b"llama-server", *map(os.fsencode, argv)]
    array = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    return bool(parser(len(words), ctypes.addressof(array), address, EXAMPLE_SERVER, None))


def parse_subset(wheel: Any, params: Any, argv: Sequence[str]) -> bool:
    """The flags that the plugin itself uses, and a few more, read by `argparse`."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            say(message)
            raise SystemExit(1)

    flags = Parser("llama-server", allow_abbrev=False)
    flags.add_argument("--version", action="version", version=f"xllamacpp {wheel.__version__}")
    flags.add_argument("-m", "--model")
    flags.add_argument("-a", "--alias")
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=8080)
    flags.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY"))
    flags.add_argument("-c", "--ctx-size", type=int, default=0, dest="n_ctx")
    flags.add_argument("-np", "--parallel", type=int, default=-1, dest="n_parallel")
    flags.add_argument("-b", "--batch-size", type=int, default=2048, dest="n_batch")
    flags.add_argument("-ub", "--ubatch-size", type=int, default=512, dest="n_ubatch")
    flags.add_argument("-n", "--predict", type=int, default=-1, dest="n_predict")
    flags.add_argument("-t", "--threads", type=int)
    flags.add_argument("-ngl", "--gpu-layers", "--n-gpu-layers", type=int)
    flags.add_argument("-kvu", "--kv-unified", action="store_true")
    flags.add_argument("--embedding", "--embeddings", action="store_true")
    flags.add_argument("--reranking", "--rerank", action="store_true")
    flags.add_argument("--pooling", choices=("none", "mean", "cls", "last", "rank"))
    flags.add_argument("--metrics", action="store_true")
    flags.add_argument("--no-warmup", action="store_true")
    flags.add_argument("--chat-template")
    found = flags.parse_args(list(argv))
    params.model.path = found.model or ""
    params.hostnames, params.port = [found.host], found.port
    for name in ("n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_predict"):
        setattr(params, name, getattr(found, name))
    if found.alias:
        params.model_alias = set(found.alias.split(","))
    if found.api_key:
        params.api_keys = found.api_key.split(",")
    if found.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = found.threads
    if found.gpu_layers is not None:
        params.n_gpu_layers = found.gpu_layers
    if found.chat_template:
        params.chat_template = found.chat_template
    params.kv_unified = found.kv_unified or found.n_parallel < 0
    params.endpoint_metrics, params.warmup = found.metrics, not found.no_warmup
    params.embedding = found.embedding or found.reranking
    pooling = "rank" if found.reranking else found.pooling
    if pooling:
        kind = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        params.pooling_type = getattr(wheel.llama_pooling_type, kind)
    return True


def serve(wheel: Any, params: Any) -> int:
    """Load the model and serve until SIGTERM or SIGINT, which end the process at once with 0.

    llama.cpp's own orderly end stops decoding first and then waits for clients that get no more
    bytes: with a request in flight it can wait for ever. Leaving at once is kinder, and the kernel
    frees all that an orderly end would.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it loads, both signals end it at once
    try:
        server = wheel.Server(params)  # returns when the model is loaded; /health says 503 before
    except RuntimeError:
        flush_log()
        say("llama.cpp did not start; its own lines above say why")  # the exception does not
        return 1
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    # The byte in the pipe wakes this thread whichever thread the kernel gave the signal to.
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):  # the wheel had installed handlers of its own
        signal.signal(number, _leave)
    say(f"listening on {server.listening_address}")
    while True:
        os.read(awake, 1)


def flush_log() -> None:
    """Wait until llama.cpp's log thread has printed why it failed, which `end` would cut off."""
    library = load_library()
    if hasattr(library, LOG_SYMBOL) and hasattr(library, FLUSH_SYMBOL):
        log, flush = getattr(library, LOG_SYMBOL), getattr(library, FLUSH_SYMBOL)
        log.restype = ctypes.c_void_p
        flush.argtypes = [ctypes.c_void_p]
        flush(log())


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001  # a handler's signature
    end(0)


def end(code: int) -> NoReturn:
    """Leave without running the C++ destructors, which wait for clients."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(text: str) -> None:
    """One line on stderr, where llama.cpp writes its own."""
    print(f"enginery_llamacpp.server: {text}", file=sys.stderr, flush=True)  # noqa: T201  # a program


if __name__ == "__main__":
    try:
        end(main(sys.argv[1:]))
    except SystemExit as leaving:  # argparse, for --version and wrong flags
        end(leaving.code if isinstance(leaving.code, int) else 1)
