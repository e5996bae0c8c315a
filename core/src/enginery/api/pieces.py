"""How the chunks of chat completions and completions add up to a reply.

Knows: which fields grow, which are said once, which replace each other, and whose cost is whose when a
reply has several choices. Does not know: events, errors or the other APIs (`aggregate`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from enginery.values import JSONObject

__all__ = ["Calls", "Choices", "Text", "chat_parts", "grow", "settled", "text_parts"]

_OF_STREAMS = frozenset({"choices", "object", "prompt_progress"})
_COSTS = ("usage", "timings")
_SAID_ONCE = frozenset({"id", "name", "role", "type"})


class Choices:
    """Chunks with ``choices``, whose pieces come in any order among each other.

    ``complete`` is True when each choice has a reason to finish and the stream has said ``[DONE]``.
    """

    def __init__(self, object: str, add_piece: Callable[[JSONObject, JSONObject], None]) -> None:
        self.complete = False
        self._object = object
        self._add_piece = add_piece
        self._top: JSONObject = {}
        self._choices: dict[int, JSONObject] = {}
        self._finished = 0  # the choice that ended last
        self._costs: dict[int, JSONObject] = {}

    def add(self, chunk: JSONObject) -> None:
        """Take the next chunk."""
        pieces = chunk["choices"]
        for piece in pieces:
            index = piece.get("index", 0)
            choice = self._choices.setdefault(index, {"index": index, "finish_reason": None})
            self._add_piece(choice, piece)
            if piece.get("finish_reason") is not None:
                self._finished = index
        top = {name: value for name, value in chunk.items() if name not in _OF_STREAMS}
        if top.get("usage") is not None:
            owner = pieces[0].get("index", 0) if pieces else self._finished
            self._costs[owner] = {name: top[name] for name in _COSTS if name in top}
        self._top.update(
            (name, value)
            for name, value in top.items()
            if value is not None or name not in self._top
        )

    def done(self) -> None:
        """The stream has said that it is over."""
        ended = (choice["finish_reason"] is not None for choice in self._choices.values())
        self.complete = bool(self._choices) and all(ended)

    def reply(self) -> JSONObject:
        """The whole reply, as far as it has come."""
        # llama.cpp counts each choice by itself, and gives the first one's cost in a whole reply.
        cost = self._costs.get(0, {}) if len(self._costs) > 1 else {}
        choices = [settled(self._choices[index]) for index in sorted(self._choices)]
        return {**self._top, **cost, "object": self._object, "choices": choices}


def chat_parts() -> Choices:
    """For a stream of chat completions."""
    return Choices("chat.completion", _add_chat)


def text_parts() -> Choices:
    """For a stream of completions."""
    return Choices("text_completion", _add_text)


def _add_chat(choice: JSONObject, piece: JSONObject) -> None:
    # llama.cpp announces content as null and then says "" in a whole reply, also beside tool calls.
    message = choice.setdefault("message", {"role": "assistant", "content": Text()})
    grow(message, piece.get("delta") or {})
    _replace(choice, piece, grown={"logprobs"}, left_out={"index", "delta"})


def _add_text(choice: JSONObject, piece: JSONObject) -> None:
    _replace(choice, piece, grown={"logprobs", "text"}, left_out={"index"})


def _replace(choice: JSONObject, piece: JSONObject, *, grown: set[str], left_out: set[str]) -> None:
    """Fields of a choice: some grow, of the others the last that is not null stays."""
    for name, value in piece.items():
        if name in grown or isinstance(value, list):
            grow(choice, {name: value})
        elif name not in left_out and (value is not None or name not in choice):
            choice[name] = value


class Text(list[str]):
    """A text in pieces, joined once at the end: a long reply has thousands."""


class Calls(dict[int, JSONObject]):
    """Tool calls by their index."""

    def add(self, pieces: list[JSONObject]) -> None:
        """Take pieces of calls; one without an index is a call of its own."""
        for piece in pieces:
            index = piece.get("index", len(self))
            told = {name: value for name, value in piece.items() if name != "index"}
            grow(self.setdefault(index, {}), told)


def grow(into: JSONObject, more: JSONObject) -> None:
    """Add a piece: texts and lists grow, objects grow inside, and whatever else comes again replaces."""
    for name, value in more.items():
        old = into.get(name)
        if value is None or (name in _SAID_ONCE and old and not value):
            into.setdefault(name, None)
        elif name == "tool_calls":
            calls = old if isinstance(old, Calls) else Calls()
            calls.add(value)
            into[name] = calls
        elif isinstance(value, str) and name not in _SAID_ONCE:
            text = old if isinstance(old, Text) else Text()
            text.append(value)
            into[name] = text
        elif isinstance(value, dict):
            grown = old if isinstance(old, dict) else {}
            grow(grown, value)
            into[name] = grown
        elif isinstance(value, list) and isinstance(old, list):
            old.extend(value)
        else:
            into[name] = list(value) if isinstance(value, list) else value


def settled(value: Any) -> Any:
    """What has grown, as plain JSON."""
    if isinstance(value, Text):
        return "".join(value)
    if isinstance(value, Calls):
        return [settled(value[index]) for index in sorted(value)]
    if isinstance(value, dict):
        return {name: settled(inner) for name, inner in value.items()}
    return value
