"""What other settings mean for engines: which variants come, go, start anew, or go on. Pure.

Knows: that a process is as its command line and its endpoint say, so a variant that differs in what neither of
them shows (features, the name for clients) goes on under its new values. Does not know: what runs, or how it is
stopped (`reconfiguration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from enginery.engine.command import command_for
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry
from enginery.settings.changes import SettingChange
from enginery.values import Command, Endpoint, Variant

__all__ = ["Changes", "Fate", "Sketch", "VariantChange", "sketch", "variant_changes"]

EXAMPLE = Endpoint("127.0.0.1", 1, api_key="KEY")
EXAMPLE_SOCKET = Endpoint("127.0.0.1", 1, api_key="KEY", unix_path="/SOCKET")
"""Where engines are imagined to listen, so that two command lines can be compared."""

_REACHED_BY = frozenset({"engine_type", "url", "api_key", "listen"})
"""Fields that say where and how an engine is reached, which no command line has to show."""


class Fate(StrEnum):
    """What becomes of one variant."""

    ADDED = "added"
    REMOVED = "removed"
    RESTARTED = "restarted"
    ADJUSTED = "adjusted"


@dataclass(frozen=True, slots=True)
class Sketch:
    """A variant and what it would be started with; ``command`` None: not ours to start, or ``problem`` says why."""

    variant: Variant
    command: Command | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class VariantChange:
    """One variant that differs.

    Args:
        id: ``model/variant``.
        fate: what becomes of it. Removed and restarted ones drain first; adjusted ones run on.
        fields: what of it differs, by name.
        before, after: its command lines for an example endpoint.
        problem: why it could not be started now, as far as its plugin can tell.
    """

    id: str
    fate: Fate
    fields: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """All that other settings change.

    Args:
        settings: every key that differs.
        variants: what that means for engines.
        later: paths of settings that count only when the gateway is started again.
    """

    settings: tuple[SettingChange, ...] = ()
    variants: tuple[VariantChange, ...] = ()
    later: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.settings or self.variants)

    def of(self, *fates: Fate) -> frozenset[str]:
        """The ids of the variants with one of these fates."""
        return frozenset(change.id for change in self.variants if change.fate in fates)


def sketch(variant: Variant, registry: PluginRegistry) -> Sketch:
    """``variant`` with its command line for an example endpoint; a plugin that refuses is heard, not feared."""
    if variant.attached:
        return Sketch(variant)
    endpoint = EXAMPLE_SOCKET if variant.listen == "unix" else EXAMPLE
    try:
        return Sketch(variant, command_for(registry.hooks(variant.engine_type), variant, endpoint))
    except EngineryError as error:
        return Sketch(variant, problem=error.message)


def variant_changes(
    before: Mapping[str, Sketch], after: Mapping[str, Sketch]
) -> tuple[VariantChange, ...]:
    """Every variant that differs, by id: those there will be first, in their order, then those that go."""
    found = [_change(before.get(id_), new) for id_, new in after.items()]
    gone = [
        VariantChange(id_, Fate.REMOVED, before=_argv(old))
        for id_, old in before.items()
        if id_ not in after
    ]
    return (*(change for change in found if change is not None), *gone)


def _change(old: Sketch | None, new: Sketch) -> VariantChange | None:
    id_, problem = new.variant.id, new.problem
    if old is None:
        return VariantChange(id_, Fate.ADDED, after=_argv(new), problem=problem)
    differing = tuple(
        field.name
        for field in fields(Variant)
        if getattr(old.variant, field.name) != getattr(new.variant, field.name)
    )
    if not differing and old.command == new.command:
        return None
    goes_on = (
        old.command == new.command
        and (old.command is not None or new.variant.attached)
        and _REACHED_BY.isdisjoint(differing)
    )
    fate = Fate.ADJUSTED if goes_on else Fate.RESTARTED
    return VariantChange(id_, fate, differing, _argv(old), _argv(new), problem)


def _argv(one: Sketch) -> tuple[str, ...]:
    return () if one.command is None else tuple(one.command.argv)
