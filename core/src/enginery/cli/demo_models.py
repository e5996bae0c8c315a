"""The models that installed plugins bring to show what they do.

Knows: their names. Does not know: who shows them, and how.
"""

from __future__ import annotations

from enginery.engine.manager import EngineManager
from enginery.plugins import PluginState
from enginery.values import Variant

__all__ = ["add_demo_models"]


def add_demo_models(manager: EngineManager) -> list[Variant]:
    """Make each plugin's demo a model ``demo-ENGINE`` of ``manager``; those that have none are left out."""
    found: list[Variant] = []
    for row in manager.registry.rows():
        if row.state is not PluginState.READY:
            continue
        variant = manager.registry.hooks(row.engine_type).demo_variant()
        if variant is not None:
            name = f"demo-{row.engine_type}"
            found.append(manager.catalog.register(name, variant, row.engine_type))
    return found
