"""Which tool the mock calls, and with what arguments. Pure.

Knows: how chat completions, messages and responses offer tools and force one, and enough of JSON Schema
to write arguments that fit. Does not know: seeds, tokens or replies.

The rules: a forced tool is called; ``required`` calls one of those offered; ``auto`` calls one of them for
about every second conversation, and none when the last message is a tool's result, so that agents come to
an end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from enginery import InvalidRequest
from enginery_mock.conversations import MESSAGES_PATH

__all__ = ["Chance", "Offer", "Tool", "chosen_tool", "read_tools", "write_arguments"]

Chance = Callable[[], float]
"""Gives a number from 0 up to 1, as `random.Random.random` does."""

MAX_DEPTH = 8
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbor")


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool on offer; ``schema`` is the JSON Schema of its arguments."""

    name: str
    schema: Any


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools of a request. ``choice`` is ``"none"``, ``"auto"``, ``"required"`` or one tool by itself."""

    tools: tuple[Tool, ...] = ()
    choice: str | Tool = "auto"


def read_tools(path: str, tools: Any, choice: Any) -> Offer:
    """Check the fields ``tools`` and ``tool_choice`` of a request to ``path``.

    Raises:
        InvalidRequest: a tool without a name, or a choice that is not on offer.
    """
    if tools is None or tools == []:
        return Offer()
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list", param="tools")
    read = tuple(_tool(path, number, tool) for number, tool in enumerate(tools))
    if isinstance(choice, dict) and choice.get("type") in {"auto", "any", "none"}:  # messages
        choice = "required" if choice["type"] == "any" else choice["type"]
    if choice is None or choice in {"auto", "none", "required"}:
        return Offer(read, choice or "auto")
    named = choice.get("function", choice) if isinstance(choice, dict) else {}
    for tool in read:
        if tool.name == named.get("name"):
            return Offer(read, tool)
    raise InvalidRequest("tool_choice names no tool that is on offer", param="tool_choice")


def _tool(path: str, number: int, tool: Any) -> Tool:
    told = tool.get("function", tool) if isinstance(tool, dict) else {}
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        raise InvalidRequest(f"tools[{number}] has no name", param=f"tools[{number}]")
    return Tool(told["name"], told.get("input_schema" if path == MESSAGES_PATH else "parameters"))


def chosen_tool(offer: Offer, messages: Any, chance: Chance) -> Tool | None:
    """The tool to call; None to answer with words."""
    if isinstance(offer.choice, Tool):
        return offer.choice
    if not offer.tools or offer.choice == "none":
        return None
    if offer.choice == "auto" and (_is_result(messages) or chance() < 0.5):
        return None
    return offer.tools[int(chance() * len(offer.tools))]


def _is_result(messages: Any) -> bool:
    """True when a conversation ends with what a tool gave."""
    last = messages[-1] if isinstance(messages, list) and messages else {}
    if not isinstance(last, dict):
        return False
    content = last.get("content")
    parts = content if isinstance(content, list) else []
    given = any(isinstance(part, dict) and part.get("type") == "tool_result" for part in parts)
    return given or last.get("role") == "tool"


def write_arguments(schema: Any, chance: Chance) -> dict[str, Any]:
    """An object that fits ``schema``; every property that it names is there."""
    written = _value(schema, schema, chance, MAX_DEPTH)
    return written if isinstance(written, dict) else {}


def _value(schema: Any, root: Any, chance: Chance, depth: int) -> Any:
    schema = _resolved(schema, root) if depth else {}
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if isinstance(options := schema.get("enum"), list) and options:
        return options[int(chance() * len(options))]
    for several in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(several), list) and schema[several]:
            return _value(schema[several][0], root, chance, depth - 1)
    return _of_type(schema, root, chance, depth)


def _of_type(schema: dict[str, Any], root: Any, chance: Chance, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    properties = schema.get("properties")
    if kind == "object" or isinstance(properties, dict):
        inner = properties if isinstance(properties, dict) else {}
        return {name: _value(inner[name], root, chance, depth - 1) for name in inner}
    if kind == "array":
        count = max(1, schema.get("minItems") or 1)
        return [_value(schema.get("items"), root, chance, depth - 1) for _ in range(count)]
    if kind in {"integer", "number"}:
        low = schema.get("minimum", 0)
        high = schema.get("maximum", low + 100)
        number = low + chance() * (high - low)
        return int(number) if kind == "integer" else round(number, 2)
    if kind == "boolean":
        return chance() < 0.5
    return None if kind == "null" else _word(_WORDS, chance)


def _resolved(schema: Any, root: Any) -> dict[str, Any]:
    """A schema, or what it refers to inside the same one; anything goes where it says nothing."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if isinstance(reference, str) and reference.startswith("#/"):
        schema = root
        for step in reference[2:].split("/"):
            schema = schema.get(step) if isinstance(schema, dict) else None
    return schema if isinstance(schema, dict) else {}


def _word(words: Sequence[str], chance: Chance) -> str:
    return words[int(chance() * len(words))]
