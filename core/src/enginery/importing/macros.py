"""llama-swap's macros: ``${name}`` in any text, filled in as it fills them in.

Pure. Knows: their order, scope and types. Does not know: what a setting means. ``${PORT}``, ``${PID}`` and
``${env.NAME}`` stay: the first two belong to a start, the last one means the same in our settings.

Source: llama-swap, ``internal/config/macros.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["fill_macros", "scope_of", "unknown_macros"]

_MACRO = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
_OF_A_START = frozenset({"PORT", "PID"})


def scope_of(model: str, everywhere: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The macros of one model, in the order of their definition; its own win, in the place of the others."""
    return {"MODEL_ID": model, **everywhere, **own}


def fill_macros(value: Any, macros: Mapping[str, Any]) -> Any:
    """``value`` with its macros filled in, keys excepted.

    The last one defined comes first, since a macro may hold those before it. A text that is one macro and
    nothing else takes the macro's type.
    """
    if isinstance(value, dict):
        return {key: fill_macros(inner, macros) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill_macros(inner, macros) for inner in value]
    for name, meaning in reversed(list(macros.items())):
        if not isinstance(value, str):
            break
        slug = f"${{{name}}}"
        value = meaning if value == slug else value.replace(slug, _text(meaning))
    return value


def unknown_macros(value: Any) -> Iterator[str]:
    """Names in ``value`` that nobody has defined, keys included."""
    if isinstance(value, str):
        yield from (name for name in _MACRO.findall(value) if name not in _OF_A_START)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from unknown_macros(key)
            yield from unknown_macros(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from unknown_macros(inner)


def _text(value: Any) -> str:
    """As Go prints it into a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
