"""What other settings mean for engines: which variants come, go, start anew, or go on. Pure.

Knows: that a process is as its command line and its endpoint say, so a variant that differs in what neither of
them shows (features, the name for clients) goes on under its new values. Does not know: what runs, or how it is
stopped (`reconfiguration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from enginery.engine.command import command_for
from enginery.engine.endpoints import endpoint_of_url
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry
from enginery.settings.changes import SettingChange
from enginery.values import Command, Endpoint, Variant

__all__ = ["Changes", "Fate", "Sketch", "VariantChange", "sketch", "variant_changes"]

PORT, KEY, SOCKET = "FREE_PORT", "KEY", "/SOCKET"
"""Stand where an engine will have its own."""

EXAMPLE, ANOTHER = 60_001, 60_002
"""Ports on which engines are imagined to listen: what differs between the two command lines is the port."""

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
    """A variant and what it would be started with, placeholders included; ``command`` None: not ours to start, or ``problem`` says why."""

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
        before, after: its command lines, with `PORT`, `KEY` and `SOCKET` where each start has its own.
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
    try:
        hooks = registry.hooks(variant.engine_type)
        here, elsewhere = _places(variant)
        command, other = (command_for(hooks, variant, place) for place in (here, elsewhere))
    except EngineryError as error:
        return Sketch(variant, problem=error.message)
    if len(command.argv) == len(other.argv):
        argv = [
            word if word == same else word.replace(str(here.port), PORT)
            for word, same in zip(command.argv, other.argv, strict=True)
        ]
        command = replace(command, argv=argv)
    return Sketch(variant, command)


def _places(variant: Variant) -> tuple[Endpoint, Endpoint]:
    """Two places where it may listen, which differ in what is another at each start."""
    if variant.url is not None:
        own = endpoint_of_url(variant.url, api_key=KEY)
        return own, own
    if variant.listen == "unix":
        own = Endpoint("localhost", 0, KEY, SOCKET)
        return own, own
    return Endpoint("127.0.0.1", EXAMPLE, KEY), Endpoint("127.0.0.1", ANOTHER, KEY)


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
