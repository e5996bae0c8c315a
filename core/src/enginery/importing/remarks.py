"""What could not be carried over: noted while it is found, with the way to it.

Knows: which fields of llama-swap have no counterpart here, and why. Does not know: how the others are
turned into settings (`llama_swap`, `llama_swap_models`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from enginery.settings import Loc, Problem

__all__ = ["EVERYWHERE", "OF_A_MODEL", "Reading"]

T = TypeVar("T")

_LOGS = "logging is the command line's: `enginery serve -v`, `-vv` for what engines print"
_CARDS = "`/v1/models` tells names, aliases, states and context lengths"
_KEPT = "requests are counted, never kept"

EVERYWHERE: dict[str, tuple[Any, str]] = {
    "logLevel": ("info", _LOGS),
    "logTimeFormat": ("", _LOGS),
    "logToStdout": ("proxy", _LOGS),
    "logRequests": (False, _LOGS),
    "store": (None, _KEPT),
    "metricsMaxInMemory": (None, _KEPT),
    "captureBuffer": (None, _KEPT),
    "ui": (None, "there is nothing to set about the pages"),
    "performance": (None, "nothing is polled that would have to be set"),
    "startPort": (None, "each start gets a port that is free then"),
    "sendLoadingState": (
        False,
        "nothing is put into a reply; a client that sends `x-enginery-progress: 1` gets it as comments",
    ),
    "includeAliasesInList": (False, "a model's aliases stand in its own entry of `/v1/models`"),
    "upstream": (None, "every path of `/upstream/NAME/` loads the model"),
    "profiles": (None, "names do not change while it runs; write `aliases`"),
}
"""Top-level fields without a counterpart: the value that says nothing, and why."""

OF_A_MODEL: dict[str, tuple[Any, str]] = {
    "name": ("", _CARDS),
    "description": ("", _CARDS),
    "metadata": (None, _CARDS),
    "unlisted": (False, "every model is listed; a key with `models: [...]` limits who may use it"),
    "sendLoadingState": (False, EVERYWHERE["sendLoadingState"][1]),
    "compat": (None, "websockets are not relayed"),
    "capabilities": (
        None,
        "clients are not told; `features` refuses what a model cannot do, `context_length` routes",
    ),
}
"""The same for a model's fields."""


class Reading:
    """A configuration while it is read.

    Attributes:
        remarks: what could not be carried over, so far.
    """

    def __init__(self) -> None:
        self.remarks: list[Problem] = []

    def note(self, loc: Loc, text: str, *, on_key: bool = False) -> None:
        """``text`` says what becomes of the value at ``loc``, and why; one line."""
        self.remarks.append(Problem(loc, " ".join(text.split()), on_key))

    def without_counterpart(
        self, given: Mapping[str, Any], known: Mapping[str, tuple[Any, str]], at: Loc
    ) -> None:
        """Note every field of ``given`` that ``known`` explains and that says something."""
        for key, (nothing, why) in known.items():
            if given.get(key) not in (None, nothing, {}, []):
                self.note((*at, key), f"not carried over: {why}", on_key=True)

    def unknown(self, given: Mapping[str, Any], known: frozenset[str], at: Loc) -> None:
        """Note every key of ``given`` that is not in ``known``."""
        for key in given:
            if key not in known:
                self.note((*at, key), "not carried over: no field of llama-swap's", on_key=True)

    def mapping(self, value: Any, loc: Loc) -> dict[str, Any]:
        """``value`` where it is a mapping, else an empty one and a remark."""
        return self._kind(value, dict, {}, "keys", loc)

    def sequence(self, value: Any, loc: Loc) -> list[Any]:
        """``value`` where it is a list, else an empty one and a remark."""
        return self._kind(value, list, [], "a list", loc)

    def text(self, value: Any, loc: Loc) -> str:
        """``value`` as text; numbers count as they are written."""
        if isinstance(value, bool) or value is None:
            return "" if value is None else str(value).lower()
        if isinstance(value, int | float):
            return str(value)
        return self._kind(value, str, "", "text", loc)

    def number(self, value: Any, loc: Loc, *, least: int = 0) -> int | None:
        """``value`` as a whole number not below ``least``; else None, with a remark unless it is absent."""
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        if value is not None:
            self.note(loc, f"not carried over: needs a whole number from {least}, got {value!r}")
        return None

    def _kind(self, value: Any, kind: type[T], empty: T, what: str, loc: Loc) -> T:
        if isinstance(value, kind):
            return value
        if value is not None:
            self.note(loc, f"not carried over: needs {what}")
        return empty
