"""What a request must become before llama.cpp gets it.

Knows: the fields that llama.cpp ignores without a word, and those that it understands under another
name. Does not know: what is wrong with a request (`validation`) or who logs. Pure: a request in, a
new body or None out; None is the usual case and lets the client's own bytes pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from enginery import EngineRequest
from enginery_llamacpp.validation import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

__all__ = ["IGNORED_FIELDS", "Adapted", "adapt", "ends_with_assistant"]

_OPENAI_BOOKKEEPING = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)

IGNORED_FIELDS: Mapping[str, frozenset[str]] = {
    CHAT: _OPENAI_BOOKKEEPING
    | {"best_of", "modalities", "prediction", "suffix", "verbosity", "web_search_options"},
    COMPLETIONS: frozenset({"best_of", "metadata", "service_tier", "store", "tools", "user"}),
    EMBEDDINGS: frozenset({"dimensions", "user"}),
    MESSAGES: frozenset({"metadata", "service_tier"}),
    RESPONSES: _OPENAI_BOOKKEEPING | {"include", "max_tool_calls", "truncation"},
}
"""Fields by route that change nothing in llama.cpp's reply; their removal is logged once each."""


class Adapted(NamedTuple):
    """``body`` is None when nothing had to change; ``ignored`` are the fields that were removed."""

    body: dict[str, Any] | None
    ignored: tuple[str, ...]


_AS_IT_IS = Adapted(None, ())


def adapt(request: EngineRequest) -> Adapted:
    """The body for llama.cpp, without changing ``request.body``. Call `validation.validate` first."""
    path, body = request.path, request.body
    names = IGNORED_FIELDS.get(path)
    if names is None:
        return _AS_IT_IS
    ignored: tuple[str, ...] = ()
    if not names.isdisjoint(body):
        ignored = tuple(sorted(name for name in names & body.keys() if body[name] is not None))
    # whole replies repeat the assistant's message anyway, and one that is folded from a stream only so
    echo = path == CHAT and not request.stream and ends_with_assistant(body)
    changes: dict[str, Any] = {"echo": True} if echo else {}
    if "tool_choice" in body or "text" in body:
        changes |= _forced_tool(path, body) | _text_format(path, body)
    if not ignored and not changes:
        return _AS_IT_IS
    kept = {name: value for name, value in body.items() if name not in ignored}
    return Adapted({**kept, **changes}, ignored)


def ends_with_assistant(body: Mapping[str, Any]) -> bool:
    """True when the reply goes on from words that the client put into the assistant's mouth."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return False
    last = messages[-1]
    return isinstance(last, dict) and last.get("role") == "assistant" and bool(last.get("content"))


def _forced_tool(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp reads a ``tool_choice`` that names one tool as "auto": offer that one, required."""
    choice = body.get("tool_choice")
    if not isinstance(choice, dict):
        return {}
    if path == CHAT:
        name = choice["function"]["name"]
        tools = [tool for tool in body["tools"] if tool["function"]["name"] == name]
        return {"tools": tools, "tool_choice": "required"}
    if path in {MESSAGES, RESPONSES} and "name" in choice:
        tools = [tool for tool in body["tools"] if tool.get("name") == choice["name"]]
        required = {"type": "any"} if path == MESSAGES else "required"
        return {"tools": tools, "tool_choice": required}
    return {}


def _text_format(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The Responses API's ``text.format`` is ignored; the chat API's ``response_format`` is not."""
    text = body.get("text")
    wanted = text.get("format") if path == RESPONSES and isinstance(text, dict) else None
    if not isinstance(wanted, dict) or "response_format" in body:
        return {}
    if wanted.get("type") == "json_object":
        return {"response_format": {"type": "json_object"}}
    if wanted.get("type") == "json_schema":
        named = {"name": wanted.get("name", "reply"), "schema": wanted.get("schema", {})}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {}
