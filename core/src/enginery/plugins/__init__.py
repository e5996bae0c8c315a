"""Finding engine plugins and calling their hooks with types."""

from enginery.plugins.backends import create_backend
from enginery.plugins.hooks import EngineHooks
from enginery.plugins.registry import PluginRegistry, PluginRow, PluginState

__all__ = ["EngineHooks", "PluginRegistry", "PluginRow", "PluginState", "create_backend"]
