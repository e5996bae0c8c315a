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
MAX_PARTS = 1000
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
    if choice is None:
        return Offer(read)
    if isinstance(choice, str) and choice in {"auto", "none", "required"}:
        return Offer(read, choice)
    named = choice.get("function", choice) if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    for tool in read:
        if tool.name == name:
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
    """An object that fits ``schema``; every property that it names is there.

    Of a schema that grows without end, or is none, as much as there is.
    """
    written = _Writer(schema, chance).value(schema, MAX_DEPTH)
    return written if isinstance(written, dict) else {}


class _Writer:
    """Writes one value; its depth and its number of parts are bounded."""

    def __init__(self, root: Any, chance: Chance) -> None:
        self._root = root
        self._chance = chance
        self._left = MAX_PARTS

    def value(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        known = self._resolved(schema) if depth and self._left > 0 else {}
        for fixed in ("const", "default"):
            if fixed in known:
                return known[fixed]
        if isinstance(options := known.get("enum"), list) and options:
            return self._one_of(options)
        for several in ("anyOf", "oneOf", "allOf"):
            if isinstance(known.get(several), list) and known[several]:
                return self.value(known[several][0], depth - 1)
        return self._of_type(known, depth)

    def _of_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind, properties = schema.get("type"), schema.get("properties")
        if isinstance(kind, list):
            kind = kind[0] if kind else None
        if isinstance(properties, dict):
            return {name: self.value(inner, depth - 1) for name, inner in properties.items()}
        match kind:
            case "object":
                return {}
            case "array":
                count = min(MAX_PARTS, max(1, int(_number(schema.get("minItems"), 1))))
                return [self.value(schema.get("items"), depth - 1) for _ in range(count)]
            case "integer" | "number":
                low = _number(schema.get("minimum"), 0)
                number = low + self._chance() * (_number(schema.get("maximum"), low + 100) - low)
                return int(number) if kind == "integer" else round(number, 2)
            case "boolean":
                return self._chance() < 0.5
            case "null":
                return None
        return self._one_of(_WORDS)

    def _resolved(self, schema: Any) -> dict[str, Any]:
        """A schema, or what it refers to inside the same one; anything goes where it says nothing."""
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if isinstance(reference, str) and reference.startswith("#"):
            schema = self._root
            for step in reference.split("/")[1:]:
                schema = schema.get(step) if isinstance(schema, dict) else None
        return schema if isinstance(schema, dict) else {}

    def _one_of(self, options: Sequence[Any]) -> Any:
        return options[int(self._chance() * len(options))]


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, int | float) else otherwise
