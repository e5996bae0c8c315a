"""What differs between two settings, key by key. Pure.

Knows: values and how they are shown without their secrets. Does not know: what follows from a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from enginery.settings.places import Loc, dotted
from enginery.settings.schema import Settings
from enginery.settings.secrets import shown

__all__ = ["SettingChange", "setting_changes"]

_NOTHING: tuple[Any, ...] = (None, {}, (), [])

ABSENT = "-"
"""Stands where one of the two settings has nothing."""


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One key that differs.

    Args:
        path: where, as ``models.qwen.ttl``.
        before, after: the values for people, secrets hidden; ``-`` where there is none.
    """

    path: str
    before: str
    after: str


def setting_changes(before: Settings, after: Settings) -> tuple[SettingChange, ...]:
    """Every value that differs, in the order of ``after``, what only ``before`` has last.

    A list counts as one value. Keys are compared as they are, and shown hidden.
    """
    old, new = (dict(_leaves(settings.model_dump(), ())) for settings in (before, after))
    old_shown, new_shown = (dict(_leaves(shown(settings), ())) for settings in (before, after))
    paths = {**new, **old}  # new ones first
    return tuple(
        SettingChange(dotted(loc), _text(old_shown, loc), _text(new_shown, loc))
        for loc in paths
        if old.get(loc) != new.get(loc)
    )


def _leaves(value: Any, loc: Loc) -> Iterator[tuple[Loc, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*loc, name))
    elif value not in _NOTHING:
        yield loc, value


def _text(leaves: dict[Loc, Any], loc: Loc) -> str:
    value = leaves.get(loc)
    return ABSENT if value is None else str(value)
