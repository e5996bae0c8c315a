"""A deterministic mock LLM engine: the plugin, a client by URL, and a server of its own.

Names load when they are first used (PEP 562): ``python -m enginery_mock.server`` imports this package
too, and must start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery_mock.client import MockEngine
    from enginery_mock.plugin import MockPlugin

__all__ = ["MockEngine", "MockPlugin"]

_LAZY = {
    "MockEngine": "enginery_mock.client",
    "MockPlugin": "enginery_mock.plugin",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'enginery_mock' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
