"""Engine cores: running a model through a Python object instead of a server.

A `Backend` runs the model; `GeneratorBackend` makes one of a function that yields text, and
`NativeBackend` of an `Executor` that computes one step of a batch. An `EngineCore` drives it, here or in
a process of its own, and a client made by `create_client` drives the core. Names load when they are
first used (PEP 562): a child that serves one backend imports nothing of the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.enginecore.async_mp import AsyncMPClient
    from enginery.enginecore.backend import Backend, Tokenizer
    from enginery.enginecore.client import EngineCoreClient
    from enginery.enginecore.clients import create_client
    from enginery.enginecore.config import ClientConfig
    from enginery.enginecore.detokenizer import Detokenizer, StopStrings
    from enginery.enginecore.executor import Executor, ModelRunnerOutput, SchedulerOutput
    from enginery.enginecore.failures import Failure
    from enginery.enginecore.generator import GeneratorBackend
    from enginery.enginecore.inproc import InprocClient
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
    from enginery.enginecore.sync_mp import SyncMPClient

__all__ = [
    "AsyncMPClient",
    "Backend",
    "Capabilities",
    "ClientConfig",
    "CoreState",
    "Detokenizer",
    "EngineCore",
    "EngineCoreClient",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "Executor",
    "Failure",
    "FinishReason",
    "GeneratorBackend",
    "InprocClient",
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
    "SyncMPClient",
    "Tokenizer",
    "create_client",
]

_HOME = {
    "AsyncMPClient": "async_mp",
    "Backend": "backend",
    "Capabilities": "messages",
    "ClientConfig": "config",
    "CoreState": "messages",
    "Detokenizer": "detokenizer",
    "EngineCore": "loop",
    "EngineCoreClient": "client",
    "EngineCoreOutput": "messages",
    "EngineCoreOutputs": "messages",
    "EngineCoreRequest": "messages",
    "Executor": "executor",
    "Failure": "failures",
    "FinishReason": "messages",
    "GeneratorBackend": "generator",
    "InprocClient": "inproc",
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
    "SyncMPClient": "sync_mp",
    "Tokenizer": "backend",
    "create_client": "clients",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'enginery.enginecore' has no attribute {name!r}")
    value = getattr(import_module(f"enginery.enginecore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
