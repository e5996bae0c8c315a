"""Engine cores: running a model through a Python object instead of a server.

A `Backend` runs the model; `GeneratorBackend` makes one of a function that yields text, and
`NativeBackend` of an `Executor` that computes one step of a batch. An `EngineCore` drives it. Names
load when they are first used (PEP 562): a child that serves one backend imports nothing of the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.enginecore.backend import Backend, Tokenizer
    from enginery.enginecore.failures import Failure
    from enginery.enginecore.messages import (
        Capabilities,
        CoreState,
        EngineCoreOutput,
        EngineCoreOutputs,
        EngineCoreRequest,
        FinishReason,
        RequestType,
    )
    from enginery.enginecore.sampling import SamplingParams

__all__ = [
    "Backend",
    "Capabilities",
    "CoreState",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "Failure",
    "FinishReason",
    "RequestType",
    "SamplingParams",
    "Tokenizer",
]

_HOME = {
    "Backend": "backend",
    "Capabilities": "messages",
    "CoreState": "messages",
    "EngineCoreOutput": "messages",
    "EngineCoreOutputs": "messages",
    "EngineCoreRequest": "messages",
    "Failure": "failures",
    "FinishReason": "messages",
    "RequestType": "messages",
    "SamplingParams": "sampling",
    "Tokenizer": "backend",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'enginery.enginecore' has no attribute {name!r}")
    value = getattr(import_module(f"enginery.enginecore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
