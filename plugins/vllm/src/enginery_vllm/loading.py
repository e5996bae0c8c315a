"""Makes vLLM's engine in this process, from a variant.

Knows: the environment that vLLM must find when it is imported, its argument parser, and how a failed start reads. Does
not know: requests. Nothing of vLLM is imported before `load_engine` is called.

vLLM prints what it does, and warns of much that nobody can change: only warnings are shown unless ``VLLM_LOGGING_LEVEL``
says otherwise. It sets the seed of this process's random numbers, and on a CPU the number of torch's threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import pydantic

from enginery import EngineStartFailed, Variant
from enginery_vllm.command import engine_flags
from enginery_vllm.cpu_threads import CpuThreads
from enginery_vllm.options import options_of
from enginery_vllm.program import is_installed

__all__ = ["load_engine"]

_MUST = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Else vLLM runs the model in a process of its own, and its engine is only a client."""

_UNLESS_SET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",  # whether a machine reports its use is its owner's decision
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may hang
}


def load_engine(variant: Variant) -> tuple[Any, CpuThreads]:
    """A ``vllm.v1.engine.llm_engine.LLMEngine`` with its model loaded, and what each thread that steps it has to hold.

    Args:
        variant: of the engine_type ``vllm``.

    Raises:
        EngineStartFailed: vLLM is missing or broken, refuses an option, or did not load the model.
    """
    flags = engine_flags(variant, options_of(variant.options))
    with _environment():
        _import()
        arguments = _arguments(variant, list(flags))
        threads = CpuThreads()
        threads.hold()
        from vllm.v1.engine.llm_engine import LLMEngine

        try:
            engine = LLMEngine.from_engine_args(arguments)
        except Exception as error:
            raise EngineStartFailed(
                f"{variant.id}: vLLM did not load the model: {_short(error)}"
            ) from error
    if "generate" not in engine.get_supported_tasks():
        raise EngineStartFailed(
            f"{variant.id}: the model generates no text; vLLM's own server embeds and ranks"
        )
    return engine, threads


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What vLLM must find while it loads; what this process starts later need not have it."""
    given = {**_UNLESS_SET, **{k: v for k, v in os.environ.items() if k in _UNLESS_SET}, **_MUST}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _import() -> None:
    if not is_installed():
        raise EngineStartFailed(f"vLLM is not installed in {sys.prefix}: pip install vllm")
    try:
        import vllm.engine.arg_utils
        import vllm.utils.argparse_utils  # noqa: F401  # whatever is broken breaks here
    except Exception as error:
        raise EngineStartFailed(
            f"vLLM is installed in {sys.prefix}, but cannot be imported: {_short(error)}"
        ) from error


def _arguments(variant: Variant, flags: list[str]) -> Any:
    """The ``EngineArgs`` that these flags mean, read by the parser that vLLM's server has."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found, unknown = parser.parse_known_args(flags)
    except SystemExit:
        last = (said.getvalue().strip().splitlines() or ["see its log"])[-1]
        raise EngineStartFailed(f"{variant.id}: vLLM refuses its arguments: {last}") from None
    if unknown:
        raise EngineStartFailed(
            f"{variant.id}: in process vLLM has no {' '.join(unknown)}: that is its server's, or nobody's"
        )
    arguments = EngineArgs.from_cli_args(found)
    arguments.disable_log_stats = True  # the core counts by itself
    if "--scheduling-policy" not in flags:
        arguments.scheduling_policy = (
            "priority"  # without priorities it is first come, first served
        )
    return arguments


def _short(error: BaseException) -> str:
    """What it says, in a few lines: vLLM's can be pages long, and the log has them."""
    if isinstance(error, pydantic.ValidationError):
        return "; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors())
    text = "\n".join(str(error).strip().splitlines()[:5])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
