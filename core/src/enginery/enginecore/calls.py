"""The calls that a core answers by name: their arguments, checked.

Knows: names, arguments and their ranges. Does not know: what the calls do (`loop`). Pure. Arguments come
from clients, perhaps of another version, so each is looked at before a method sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from enginery.errors import InvalidRequest

__all__ = ["CALLS", "checked_arguments"]

_MODES = ("abort", "wait", "keep")
_TAGS = ("weights", "kv_cache", "scheduling")


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _mode(value: Any) -> bool:
    return value in _MODES


def _level(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 2


def _tags(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and all(t in _TAGS for t in value))


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


_MUST: dict[Callable[[Any], bool], str] = {
    _flag: "must be true or false",
    _mode: f"must be one of {', '.join(_MODES)}",
    _level: "must be 0, 1 or 2",
    _tags: f"must be a list of {', '.join(_TAGS)}, or none",
    _text: "must be a string, or none",
    _count: "must be a whole number from 1, or none",
}

CALLS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "abort_all": {},
    "check_health": {},
    "execute_dummy_batch": {},
    "get_stats": {},
    "is_paused": {},
    "is_sleeping": {},
    "pause": {"mode": _mode, "clear_cache": _flag},
    "profile": {"is_start": _flag, "prefix": _text, "max_iterations": _count},
    "reset_prefix_cache": {"reset_running_requests": _flag, "reset_connector": _flag},
    "resume": {},
    "sleep": {"level": _level, "mode": _mode},
    "wake_up": {"tags": _tags},
}
"""Name to arguments; each is the `EngineCore` method of that name, and every argument has a default."""


def checked_arguments(method: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one of `CALLS`.

    Raises:
        InvalidRequest: an unknown argument or a wrong value; ``param`` names it.
    """
    known = CALLS[method]
    for name, value in args.items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidRequest(f"{name}: {method} has no such argument; {takes}", param=name)
        if not known[name](value):
            raise InvalidRequest(f"{name} {_MUST[known[name]]}, got {value!r}", param=name)
    return dict(args)
