"""The shape of an answer, and in what two shapes differ. Pure.

Knows: JSON, and which values say what happened and so belong to the shape. Does not know: servers, scenarios, or which
differences are allowed. A shape is JSON itself, so that it can be kept in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["differences", "shape_of", "stream_shape"]

TELLING = frozenset({
    "finish_reason",
    "is_paused",
    "is_sleeping",
    "level",
    "object",
    "role",
    "status",
    "success",
    "tags",
})  # fmt: skip
"""Keys whose values say what happened; of all others only the type counts."""


def shape_of(value: Any) -> Any:
    """``value`` with types in the place of values, but for those that tell.

    Objects stay objects. A list becomes a list of the different shapes of its elements, in order of appearance.
    """
    match value:
        case dict():
            return {key: _member(key, item) for key, item in value.items()}
        case list():
            found: list[Any] = []
            for item in map(shape_of, value):
                if item not in found:
                    found.append(item)
            return found
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case _:
            return "string"


def _member(key: str, value: Any) -> Any:
    if key in TELLING and value is not None and not isinstance(value, dict | float):
        return f"={value!r}"
    return shape_of(value)


def stream_shape(frames: list[Any]) -> list[Any]:
    """The shapes of a stream's frames in order; equal ones that follow each other, as tokens do, are one."""
    shapes: list[Any] = []
    for shape in map(shape_of, frames):
        if not shapes or shapes[-1] != shape:
            shapes.append(shape)
    return shapes


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Each difference between two shapes, as ``place: theirs, ours``.

    ``-key`` is one that only they have, ``+key`` one that only we have. A key that is null here and missing there is no
    difference: clients read both as None.
    """
    if isinstance(theirs, dict) and isinstance(ours, dict):
        yield from _of_objects(theirs, ours, path)
    elif isinstance(theirs, list) and isinstance(ours, list):
        yield from _of_lists(theirs, ours, path)
    elif theirs != ours:
        yield f"{path}: {_named(theirs)}, ours {_named(ours)}"


def _of_objects(theirs: dict[str, Any], ours: dict[str, Any], path: str) -> Iterator[str]:
    for key in theirs | ours:
        where = f"{path}.{key}" if path else key
        if theirs.get(key, "null") == ours.get(key, "null") == "null":
            continue
        if key not in ours:
            yield f"-{where}: {_named(theirs[key])}"
        elif key not in theirs:
            yield f"+{where}: {_named(ours[key])}"
        else:
            yield from differences(theirs[key], ours[key], where)


def _of_lists(theirs: list[Any], ours: list[Any], path: str) -> Iterator[str]:
    if len(theirs) == len(ours):
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    else:
        yield f"{path}: {len(theirs)} kinds, ours {len(ours)}"
        for number, shape in enumerate(theirs):
            if shape not in ours:
                yield f"-{path}[{number}]: {_named(shape)}"
        for number, shape in enumerate(ours):
            if shape not in theirs:
                yield f"+{path}[{number}]: {_named(shape)}"


def _named(shape: Any) -> str:
    match shape:
        case dict():
            return "{" + ", ".join(shape) + "}"
        case list():
            return "[" + ", ".join(map(_named, shape)) + "]"
        case _:
            return str(shape)
