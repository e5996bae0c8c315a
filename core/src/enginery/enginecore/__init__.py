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
    from enginery.enginecore.detokenizer import Detokenizer, StopStrings
    from enginery.enginecore.executor import Executor, ModelRunnerOutput, SchedulerOutput
    from enginery.enginecore.failures import Failure
    from enginery.enginecore.generator import GeneratorBackend
    from enginery.enginecore.kvcache import KVLedger
    from enginery.enginecore.loop import EngineCore
    from enginery.enginecore.messages import (
        Capabilities,
        CoreState,
        EngineCoreOutput,
        EngineCoreOutputs,
        EngineCoreRequest,
        FinishReason,
        PauseMode,
        PromptForm,
        RequestType,
    )
    from enginery.enginecore.mock import MockExecutor, MockTokenizer
    from enginery.enginecore.native import NativeBackend
    from enginery.enginecore.request import Request, RequestStatus
    from enginery.enginecore.sampling import SamplingParams
    from enginery.enginecore.scheduler import Scheduler, SimpleScheduler

__all__ = [
    "Backend",
    "Capabilities",
    "CoreState",
    "Detokenizer",
    "EngineCore",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "Executor",
    "Failure",
    "FinishReason",
    "GeneratorBackend",
    "KVLedger",
    "MockExecutor",
    "MockTokenizer",
    "ModelRunnerOutput",
    "NativeBackend",
    "PauseMode",
    "PromptForm",
    "Request",
    "RequestStatus",
    "RequestType",
    "SamplingParams",
    "Scheduler",
    "SchedulerOutput",
    "SimpleScheduler",
    "StopStrings",
    "Tokenizer",
]

_HOME = {
    "Backend": "backend",
    "Capabilities": "messages",
    "CoreState": "messages",
    "Detokenizer": "detokenizer",
    "EngineCore": "loop",
    "EngineCoreOutput": "messages",
    "EngineCoreOutputs": "messages",
    "EngineCoreRequest": "messages",
    "Executor": "executor",
    "Failure": "failures",
    "FinishReason": "messages",
    "GeneratorBackend": "generator",
    "KVLedger": "kvcache",
    "MockExecutor": "mock",
    "MockTokenizer": "mock",
    "ModelRunnerOutput": "executor",
    "NativeBackend": "native",
    "PauseMode": "messages",
    "PromptForm": "messages",
    "Request": "request",
    "RequestStatus": "request",
    "RequestType": "messages",
    "SamplingParams": "sampling",
    "Scheduler": "scheduler",
    "SchedulerOutput": "executor",
    "SimpleScheduler": "scheduler",
    "StopStrings": "detokenizer",
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
