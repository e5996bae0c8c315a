"""Environment variables to a layer of settings: ``ENGINERY_DEFAULTS__MAX_WAIT=5s``.

Knows: how a variable's name becomes the way to a setting. Does not know: what a setting may be. Pure:
the environment is an argument.

Parts are split at ``__`` and lower-cased. A model or variant is found by its name in any case, with
``_`` for what a variable's name cannot hold: ``ENGINERY_MODELS__QWEN3_8B__PARALLEL`` is for
``qwen3-8b``; a name that nothing lower down has is taken in lower case. The names of an engine's own
environment stay as they are written. A value in ``[ ]`` or ``{ }`` is read as YAML, and so as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from enginery.settings.document import plain_value, read_document, takes_text
from enginery.settings.places import Layer, Loc, Mark, Place, Problem

__all__ = ["PREFIX", "merged", "read_environment"]

PREFIX = "ENGINERY_"
_SECTIONS = {"budget", "defaults", "models", "plugins", "server"}


def read_environment(environ: Mapping[str, str], below: Mapping[str, Any]) -> Layer:
    """What the environment says.

    Args:
        environ: names and values. A variable with our prefix that is neither a section nor nested
            is somebody else's (``ENGINERY_CONFIG``, ``ENGINERY_URL``); a nested one must be a
            setting.
        below: the values of the file, for the names of its models.
    """
    layer = Layer()
    for name in sorted(environ):
        parts = name.removeprefix(PREFIX).split("__")
        if not name.startswith(PREFIX) or (len(parts) == 1 and parts[0].lower() not in _SECTIONS):
            continue
        place = Place(name)
        loc, several = _loc(parts, below)
        if several:
            text = f"fits {' and '.join(several)}; set it in the file"
            layer.problems.append(Problem(loc, text, place=place))
            continue
        one = _read(environ[name], loc, place)
        layer.values = merged(layer.values, one.values)
        layer.marks |= one.marks
        layer.problems += one.problems
    return layer


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both, mapping by mapping; where they differ, ``high``. As pydantic-settings merges sources."""
    found = dict(low)
    for key, value in high.items():
        old = found.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            found[key] = merged(old, value)
        else:
            found[key] = value
    return found


def _read(text: str, loc: Loc, place: Place) -> Layer:
    if text[:1] in {"[", "{"}:
        layer = read_document(text, place.source, at=loc, place=place)
    else:
        value: Any = text if takes_text(loc) else plain_value(text)
        for part in reversed(loc):
            value = {part: value}
        layer = Layer(value)
    for length in range(1, len(loc) + 1):
        layer.marks.setdefault(loc[:length], Mark(place, place))
    return layer


def _loc(parts: list[str], below: Mapping[str, Any]) -> tuple[Loc, list[str]]:
    """The way to a setting; and, where a name fits several models, their names."""
    loc: list[str] = []
    known: Any = below
    for part in parts:
        match loc:
            case ["models"] | ["models", _, "variants"]:
                names = _named(part, known if isinstance(known, Mapping) else {})
                if len(names) > 1:
                    return tuple(loc), names
                loc.append(names[0] if names else part.lower())
            case ["models", _, "env"] | ["models", _, "variants", _, "env"]:
                loc.append(part)
            case _:
                loc.append(part.lower())
        known = known.get(loc[-1]) if isinstance(known, Mapping) else None
    return tuple(loc), []


def _named(part: str, known: Mapping[str, Any]) -> list[str]:
    """The names among ``known`` that ``part`` means."""
    if part in known:
        return [part]
    plain = _in_plain(part)
    return [name for name in known if _in_plain(name) == plain]


def _in_plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())
