"""Enginery: a plugin-based framework that runs many LLM inference engines as one.

For plugin authors: `hookimpl` and the values that hooks take and return. For applications:
`EngineManager` and `EngineClient`. Names that need more than the standard library load when they
are first used (PEP 562), so that ``import enginery`` costs little in servers started as children.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from enginery.errors import (
    AccessDenied,
    AuthenticationFailed,
    BadEngineReply,
    BodyTooLarge,
    ConfigError,
    ContextLengthExceeded,
    EndpointNotSupported,
    EngineBusy,
    EngineClosedError,
    EngineCrashed,
    EngineDeadError,
    EngineError,
    EngineEvicted,
    EngineLeaked,
    EngineLoading,
    EngineQuarantined,
    EngineryError,
    EngineStartFailed,
    EngineTimeout,
    EngineUnreachable,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    PluginError,
    QueueFull,
    RequestTimeout,
    ShuttingDown,
    UnsupportedMediaType,
    UnsupportedOperation,
)
from enginery.values import (
    Command,
    Endpoint,
    EngineReply,
    EngineRequest,
    Health,
    Memory,
    ResponseTransform,
    RunningEngine,
    StopPlan,
    TokenEstimate,
    Variant,
)

if TYPE_CHECKING:
    from enginery.engine.client import EngineClient, PluginEngineClient
    from enginery.engine.manager import EngineManager
    from enginery.engine.process import EngineProcess
    from enginery.engine.server_client import ServerClient
    from enginery.enginecore.backend import Backend
    from enginery.enginecore.generator import GeneratorBackend
    from enginery.enginecore.messages import Capabilities
    from enginery.hookspecs import API_VERSION, hookimpl
    from enginery.plugins import EngineHooks, PluginRegistry
    from enginery.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "AccessDenied",
    "AuthenticationFailed",
    "Backend",
    "BadEngineReply",
    "BodyTooLarge",
    "Capabilities",
    "Command",
    "ConfigError",
    "ContextLengthExceeded",
    "Endpoint",
    "EndpointNotSupported",
    "EngineBusy",
    "EngineClient",
    "EngineClosedError",
    "EngineCrashed",
    "EngineDeadError",
    "EngineError",
    "EngineEvicted",
    "EngineHooks",
    "EngineLeaked",
    "EngineLoading",
    "EngineManager",
    "EngineProcess",
    "EngineQuarantined",
    "EngineReply",
    "EngineRequest",
    "EngineStartFailed",
    "EngineTimeout",
    "EngineUnreachable",
    "EngineryError",
    "GeneratorBackend",
    "Health",
    "InvalidRequest",
    "Memory",
    "MethodNotAllowed",
    "ModelNotFound",
    "PluginEngineClient",
    "PluginError",
    "PluginRegistry",
    "QueueFull",
    "RequestTimeout",
    "ResponseTransform",
    "RunningEngine",
    "ServerClient",
    "Settings",
    "ShuttingDown",
    "StopPlan",
    "TokenEstimate",
    "UnsupportedMediaType",
    "UnsupportedOperation",
    "Variant",
    "hookimpl",
]

_LAZY = {
    "API_VERSION": "enginery.hookspecs",
    "Backend": "enginery.enginecore.backend",
    "Capabilities": "enginery.enginecore.messages",
    "EngineClient": "enginery.engine.client",
    "EngineHooks": "enginery.plugins",
    "EngineManager": "enginery.engine.manager",
    "EngineProcess": "enginery.engine.process",
    "GeneratorBackend": "enginery.enginecore.generator",
    "PluginEngineClient": "enginery.engine.client",
    "PluginRegistry": "enginery.plugins",
    "ServerClient": "enginery.engine.server_client",
    "Settings": "enginery.settings",
    "hookimpl": "enginery.hookspecs",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'enginery' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
