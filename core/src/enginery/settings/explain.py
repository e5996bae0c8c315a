"""pydantic's findings in plain words.

Knows: pydantic's error types and how models nest. Does not know: our settings; a plugin's options go
through the same function. Nothing here shows a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from enginery.settings.places import Loc, Mark, Problem

__all__ = ["explain", "several", "unknown_key"]

_WHOLE, _NUMBER, _LIST = "needs a whole number", "needs a number", "needs a list"
_MAPPING, _BOOL = "needs a mapping of keys to values", "needs true or false"
_WORDS = {
    "bool_parsing": _BOOL,
    "bool_type": _BOOL,
    "dict_type": _MAPPING,
    "enum": "must be {expected}",
    "finite_number": "needs a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "frozen_set_type": _LIST,
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": _LIST,
    "literal_error": "must be {expected}",
    "mapping_type": _MAPPING,
    "missing": "is missing",
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "none_required": "must be null",
    "path_type": "needs a path",
    "set_type": _LIST,
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "needs text",
    "too_long": "must have at most {max_length}",
    "too_short": "must have at least {min_length}",
    "tuple_type": _LIST,
    "value_error": "{error}",
    "assertion_error": "{error}",
}
_SECRET = re.compile(
    r"(^|[_-])(api_?keys?|keys?|token|secret|password|credentials?)$", re.IGNORECASE
)
_SEVERAL = "enginery_several"


def several(found: list[tuple[Loc, str]]) -> PydanticCustomError:
    """For validators of ours: many findings in one, each at a loc below the validator's own."""
    return PydanticCustomError(_SEVERAL, "several problems", {"found": found})


def explain(
    error: ValidationError,
    model: type[BaseModel],
    marks: Mapping[Loc, Mark],
    *,
    at: Loc = (),
    noun: str = "key",
) -> list[Problem]:
    """What ``error`` says, one problem for each value at fault.

    Args:
        error: from validating ``model``.
        model: its fields are what an unknown key is compared with.
        marks: of every value that was given; a loc is cut to the part that exists, because pydantic
            appends the names of a union's members.
        at: where the validated mapping is.
        noun: what an unknown key is called.
    """
    told: dict[tuple[Loc, bool], list[str]] = {}
    got: dict[tuple[Loc, bool], str] = {}
    for item in error.errors(include_url=False):
        for loc, on_key, text, value in _findings(item, model, marks, at, noun):
            texts = told.setdefault((loc, on_key), [])
            if text not in texts:
                texts.append(text)
            got.setdefault((loc, on_key), value)
    return [
        Problem(loc, ", or ".join(texts) + got[loc, on_key], on_key)
        for (loc, on_key), texts in told.items()
    ]


def unknown_key(key: str, known: list[str], noun: str) -> str:
    """``unknown key; did you mean context_length?``, or the keys there are."""
    near = get_close_matches(key.lower(), known, 1)
    if near:
        return f"unknown {noun}; did you mean {near[0]}?"
    return f"unknown {noun}; {noun}s here: {', '.join(known)}" if known else f"unknown {noun}"


def _findings(
    item: ErrorDetails, model: type[BaseModel], marks: Mapping[Loc, Mark], at: Loc, noun: str
) -> Iterator[tuple[Loc, bool, str, str]]:
    """``(loc, on_key, text, ", got ...")`` of one of pydantic's errors."""
    kind, inner, context = item["type"], item["loc"], item.get("ctx", {})
    if kind == _SEVERAL:
        for below, text in context["found"]:
            yield (*at, *inner, *below), False, text, ""
        return
    if kind == "extra_forbidden":
        text = unknown_key(str(inner[-1]), _keys_at(model, inner[:-1]), noun)
        yield (*at, *inner), True, text, ""
        return
    text = _WORDS.get(kind, "{message}").format(
        message=item["msg"][:1].lower() + item["msg"][1:], **context
    )
    if kind in {"too_short", "string_too_short"} and context["min_length"] == 1:
        text = "must not be empty"
    if kind == "missing":
        yield (*at, *inner), True, text, ""
    elif inner and inner[-1] == "[key]":
        yield (*at, *inner[:-1]), True, text, ""
    else:
        loc = _existing((*at, *inner), at, marks)
        yield loc, False, text, _got(kind, item["input"], loc, marks)


def _existing(loc: Loc, at: Loc, marks: Mapping[Loc, Mark]) -> Loc:
    for length in range(len(loc), len(at), -1):
        if loc[:length] in marks:
            return loc[:length]
    return loc if not any(mark[: len(at)] == at for mark in marks) else at


def _got(kind: str, value: Any, loc: Loc, marks: Mapping[Loc, Mark]) -> str:
    """``, got 'x'``; empty where the value says nothing or may be a secret."""
    mark = marks.get(loc)
    if kind in {"too_short", "string_too_short"}:
        return ""
    if mark and mark.written is not None:
        return f", got {mark.written!r}"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        shape = "a mapping" if isinstance(value, Mapping) else "a list"
        return f", got {shape}" if kind.endswith("_type") else ""
    if any(part == "env" or _SECRET.search(str(part)) for part in loc):
        return ""
    if value is None or isinstance(value, bool):
        text = {None: "nothing", True: "true", False: "false"}[value]
    elif isinstance(value, str | int | float):
        text = repr(value)
        text = text if len(text) <= 60 else text[:57] + "..."
    else:  # an object from code, which may hold secrets
        text = f"a {type(value).__name__}"
    hint = "; put it in quotes" if kind == "string_type" and value is not None else ""
    return f", got {text}{hint}"


def _keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """The keys that a mapping at ``loc`` may have, empty where its type does not say."""
    kinds: list[Any] = [model]
    for part in loc:
        kinds = [inner for kind in kinds for inner in _step(kind, part)]
    return sorted(
        {
            field.alias or name
            for kind in kinds
            if isinstance(kind, type) and issubclass(kind, BaseModel)
            for name, field in kind.model_fields.items()
        }
    )


def _step(kind: Any, part: str | int) -> list[Any]:
    """The types that a value of type ``kind`` may hold under ``part``."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        return _members(field.annotation) if field else []
    arguments = get_args(kind)
    if get_origin(kind) in {dict, Mapping} and len(arguments) == 2:
        return _members(arguments[1])
    if get_origin(kind) in {list, tuple} and arguments:
        return _members(arguments[0])
    return []


def _members(kind: Any) -> list[Any]:
    """The members of a union, without `Annotated` around them."""
    if hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return [inner for member in get_args(kind) for inner in _members(member)]
    return [kind]
