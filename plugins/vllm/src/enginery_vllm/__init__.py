"""vLLM as an Enginery engine: the plugin, and streams from a vLLM in this process.

Names load when they are first used (PEP 562), and vLLM itself only when an engine is made: the
manager asks the plugin's pure hooks without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery_vllm.client import VllmEngine
    from enginery_vllm.plugin import VllmPlugin
    from enginery_vllm.streaming import StreamingVllmConfig, StreamingVllmEngine

__all__ = ["StreamingVllmConfig", "StreamingVllmEngine", "VllmEngine", "VllmPlugin"]

_LAZY = {
    "StreamingVllmConfig": "enginery_vllm.streaming",
    "StreamingVllmEngine": "enginery_vllm.streaming",
    "VllmEngine": "enginery_vllm.client",
    "VllmPlugin": "enginery_vllm.plugin",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'enginery_vllm' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
