"""Where a value was written, and how a problem with it is told.

Knows: files' lines and columns, environment variables, flags, and the one line that names them.
Does not know: YAML, pydantic or what any setting means. A *loc* is the way to a value from the top,
as pydantic writes it: ``("models", "qwen", "args", 0)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from enginery.errors import ConfigError

__all__ = [
    "Layer",
    "Loc",
    "Mark",
    "Place",
    "Problem",
    "WrongSettings",
    "config_error",
    "dotted",
    "marks_of",
]

Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A file's name with line and column, both from 1; or a source that has no lines.

    Line 0 means no lines: an environment variable's name, or ``"command line"``.
    """

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one value and its key are; None for values that come from code.

    ``written`` is the text before ``${env.NAME}`` was filled in: errors show it, never the secret.
    """

    key: Place | None = None
    value: Place | None = None
    written: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong at ``loc``.

    Args:
        loc: the value at fault; it need not exist (a missing key).
        text: what is wrong and what to do, without a full stop.
        on_key: the key is at fault, not its value.
        place: overrides the place that the marks give.
    """

    loc: Loc
    text: str
    on_key: bool = False
    place: Place | None = None


@dataclass(slots=True)
class Layer:
    """What one source of settings says: a file, the environment, or flags."""

    values: dict[str, Any] = field(default_factory=dict)
    marks: dict[Loc, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class WrongSettings(ConfigError):
    """What `config_error` makes: its parent's text, and the values that it was made of."""

    problems: tuple[Problem, ...] = ()
    marks: Mapping[Loc, Mark] = {}


def marks_of(values: Any, place: Place | None = None, at: Loc = ()) -> dict[Loc, Mark]:
    """Marks for every value inside ``values``, all at the same place; None for code."""
    marks = {at: Mark(place, place)} if at else {}
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(values, Mapping):
        inside = values.items()
    elif isinstance(values, list | tuple):
        inside = enumerate(values)
    for key, value in inside:
        marks |= marks_of(value, place, (*at, key))
    return marks


def dotted(loc: Loc) -> str:
    """``models.qwen.args[0]``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def config_error(problems: Iterable[Problem], marks: Mapping[Loc, Mark]) -> WrongSettings:
    """One error with a line for each problem, in the order of the file.

    Each line is ``PLACE: PATH: TEXT``, the place left out where a value came from code. ``param`` is
    the path of the first.
    """
    problems = tuple(problems)
    placed = sorted(
        {(problem, _place(problem, marks)) for problem in problems},
        key=lambda pair: (pair[1] is None, pair[1] or Place(""), dotted(pair[0].loc)),
    )
    lines = []
    for problem, place in placed:
        parts = [str(place) if place else "", dotted(problem.loc), problem.text]
        lines.append(": ".join(part for part in parts if part))
    first = dotted(placed[0][0].loc) if placed else ""
    error = WrongSettings("\n".join(lines), param=first or None)
    error.problems, error.marks = problems, marks
    return error


def _place(problem: Problem, marks: Mapping[Loc, Mark]) -> Place | None:
    """The problem's own place, else that of the nearest value which was written down."""
    if problem.place:
        return problem.place
    for length in range(len(problem.loc), -1, -1):
        mark = marks.get(problem.loc[:length])
        if mark:
            exact = length == len(problem.loc)
            return mark.value if exact and not problem.on_key else mark.key or mark.value
    return None
