"""`create_backend`: a plugin's backend, made in the process that runs it.

Knows: how a variant that came as plain values finds its plugin again, under the same allow and deny lists, and gets
its typed options. Does not know: servers or clients; an engine core calls this by its import path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pydantic

from enginery.enginecore.backend import Backend
from enginery.enginecore.served import variant_of
from enginery.errors import ConfigError
from enginery.plugins.registry import PluginRegistry

__all__ = ["create_backend"]


def create_backend(
    *,
    engine_type: str,
    variant: Mapping[str, Any],
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
) -> Backend:
    """The backend of the plugin for ``engine_type``.

    Args:
        engine_type: which plugin.
        variant: the fields of a `Variant`; its options as a mapping.
        allow: distributions that may be loaded; empty, all.
        deny: those that may not.

    Raises:
        PluginError: there is no such plugin, it may not be loaded, or its hook failed.
        UnsupportedOperation: it has no backend.
        ConfigError: the options are not its options.
    """
    hooks = PluginRegistry(allow, deny).hooks(engine_type)
    found = variant_of(variant)
    model = hooks.variant_options()
    if model is not None:
        try:
            found = replace(found, options=model.model_validate(found.options))
        except pydantic.ValidationError as error:
            raise ConfigError(f"{found.id}: {error}") from None
    return hooks.create_backend(found)
