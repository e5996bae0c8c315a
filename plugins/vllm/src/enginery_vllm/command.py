"""From a variant to the command line of vLLM's server.

Knows: the flags, and what vLLM does with them. Does not know: which Python has vLLM (`program`) or how processes are
started. Pure: a variant, an endpoint and a program in, a command out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGTERM

from enginery import Command, Endpoint, EngineStartFailed, StopPlan, Variant
from enginery_vllm.options import GIB, VllmOptions, options_of

__all__ = [
    "ABOUT",
    "API_KEY_VARIABLE",
    "CAUSE_HINT",
    "READY_HINT",
    "SERVE",
    "STOP_PLAN",
    "build_command",
    "engine_flags",
]

API_KEY_VARIABLE = "VLLM_API_KEY"

SERVE = str(Path(__file__).with_name("serving") / "serve.py")
ABOUT = str(Path(__file__).with_name("serving") / "about.py")
GUARD = "key_guard.KeyGuard"

STOP_PLAN = StopPlan(signals=((int(SIGTERM), 10.0),), kill_after=2.0)
"""vLLM aborts its requests, ends its engine core and workers and is gone after 2 s on a CPU. What is left of its
processes after 10 s is killed with it."""

READY_HINT = r"Application startup complete"

CAUSE_HINT = r"^\((?!APIServer)[^)]* pid=\d+\) ERROR \S+ \S+ \[[^\]]+\] [\w.]*[A-Z]\w*(?:: |$)"
"""The last line of a traceback that the engine core or a worker logs: ``(Worker pid=1) ERROR 11-21 15:46:57 [x.py:1]
ValueError: …``. The server itself then only prints, in two tracebacks, that the root cause stands above."""


def build_command(variant: Variant, endpoint: Endpoint, program: Sequence[str]) -> Command:
    """The command that serves ``variant`` at ``endpoint``.

    Args:
        variant: its options say which model and how.
        endpoint: where to listen; its key goes into the environment, which other users of the machine cannot read,
            never onto the command line, which they can.
        program: the Python that has vLLM, from `program.find_python`.

    Raises:
        EngineStartFailed: there is no model.
    """
    options = options_of(variant.options)
    whole_line_given = variant.binary is not None and bool(variant.args)
    if options.model is None and whole_line_given:
        options = options.model_copy(update={"model": variant.model})  # not used
    env = {
        "VLLM_NO_USAGE_STATS": "1",  # whether a machine reports its use is its owner's decision
        # opens the routes of sleeping, and others: see `serving.key_guard`
        "VLLM_SERVER_DEV_MODE": "1" if options.sleep else "0",
    }
    if endpoint.api_key is not None:
        env[API_KEY_VARIABLE] = endpoint.api_key
    return Command(
        argv=(
            *(*program, SERVE, *_engine_flags(variant, options)),
            *(*_server_flags(variant, options, endpoint), *options.extra_args),
        ),
        env=env,
        cwd=variant.work_dir,
        health_path="/health",
        ready_hint=READY_HINT,
        cause_hint=CAUSE_HINT,
        stop_plan=STOP_PLAN,
        check_argv=(*program, ABOUT),
        folder_variable="VLLM_RPC_BASE_PATH",  # its processes leave seven sockets there when they are killed
        log_level="info",  # vLLM prints everything to stderr or stdout, whatever it means
    )


def engine_flags(variant: Variant, options: VllmOptions) -> Sequence[str]:
    """The flags that say how the model runs: the server's and, read by vLLM's own parser, those in process.

    ``--model`` comes first, what the user added last. Nothing of HTTP is among them: no address, key, served name or
    parser of tool calls.

    Raises:
        EngineStartFailed: there is no model.
    """
    return (*_engine_flags(variant, options), *options.extra_args)


_WITH_A_VALUE = (
    *("tokenizer", "revision", "load_format", "dtype", "quantization", "runner"),
    *("tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization"),
    *("kv_cache_dtype", "max_num_batched_tokens", "max_num_queued_reqs", "seed"),
)
"""Options whose names are their flags'."""


def _engine_flags(variant: Variant, options: VllmOptions) -> Iterator[str]:
    if options.model is None:
        raise EngineStartFailed(
            f"{variant.id}: options.model is missing; set it to a model's directory, or its name on a hub",
            param="options.model",
        )
    yield from ("--model", options.model)
    if variant.context_length is not None:
        yield from ("--max-model-len", str(variant.context_length))
    yield from ("--max-num-seqs", str(variant.parallel))
    for name in _WITH_A_VALUE:
        value = getattr(options, name)
        if value is not None:
            yield from (_flag(name), str(value))
    if options.kv_cache_gib is not None:
        yield from ("--kv-cache-memory-bytes", str(round(options.kv_cache_gib * GIB)))
    if options.cpu_offload_gib is not None:
        yield from ("--cpu-offload-gb", f"{options.cpu_offload_gib:g}")  # vLLM's GB are 2**30, too
    for name in ("trust_remote_code", "enforce_eager"):
        if getattr(options, name):
            yield _flag(name)
    if options.enable_prefix_caching is not None:
        yield (
            "--enable-prefix-caching"
            if options.enable_prefix_caching
            else "--no-enable-prefix-caching"
        )
    if options.sleep is True:
        yield "--enable-sleep-mode"


def _server_flags(variant: Variant, options: VllmOptions, endpoint: Endpoint) -> Iterator[str]:
    yield from ("--served-model-name", variant.body_model)
    if endpoint.unix_path is not None:
        yield from ("--uds", endpoint.unix_path)
    else:
        yield from ("--host", endpoint.host, "--port", str(endpoint.port))
    if endpoint.api_key is not None:
        yield from ("--middleware", GUARD)
    for name in ("chat_template", "tool_call_parser", "reasoning_parser"):
        value = getattr(options, name)
        if value is not None:
            yield from (_flag(name), value)
    if options.enable_auto_tool_choice:
        yield "--enable-auto-tool-choice"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
