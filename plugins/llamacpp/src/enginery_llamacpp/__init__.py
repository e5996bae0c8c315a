"""llama.cpp as an Enginery engine: the plugin, a client by URL, and a bundled server.

Names load when they are first used (PEP 562): ``python -m enginery_llamacpp.server`` imports this
package too, and must start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery_llamacpp.client import LlamaCppEngine
    from enginery_llamacpp.plugin import LlamaCppPlugin

__all__ = ["LlamaCppEngine", "LlamaCppPlugin"]

_LAZY = {
    "LlamaCppEngine": "enginery_llamacpp.client",
    "LlamaCppPlugin": "enginery_llamacpp.plugin",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'enginery_llamacpp' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
