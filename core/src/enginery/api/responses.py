"""Objects and events of OpenAI's Responses API.

Knows: the field names of https://platform.openai.com/docs/api-reference/responses and the order of a
stream's events, which are numbered. Does not know: where texts, ids and times come from. It covers
texts and function calls, one after the other; that is what engines produce.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from enginery.api.sse import encode_event
from enginery.values import JSONObject

__all__ = ["Events", "Status", "encode", "function_call", "message", "response", "usage"]

Status = Literal["in_progress", "completed", "incomplete"]


def usage(input_tokens: int, output_tokens: int, *, cached_tokens: int = 0) -> JSONObject:
    """The tokens that a response cost; ``cached_tokens`` are part of ``input_tokens``."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


# -- objects ---------------------------------------------------------------------------------------


def response(
    *,
    id: str,
    created_at: int,
    model: str,
    status: Status,
    output: Sequence[JSONObject] = (),
    usage: JSONObject | None = None,
    **settings: Any,
) -> JSONObject:
    """A response; ``created_at`` in seconds since 1970.

    Args:
        id: begins with ``resp_`` by custom.
        created_at: when.
        model: what it comes from.
        status: ``"incomplete"`` where the limit of tokens cut it.
        output: messages and function calls.
        usage: once it is over.
        settings: fields of the request that the response repeats, ``tools`` for one.
    """
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "completed_at": created_at if status == "completed" else None,
        "status": status,
        "error": None,
        "incomplete_details": cut,
        "instructions": None,
        "model": model,
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **settings,
        "usage": usage,
    }


def message(id: str, text: str | None, status: Status) -> JSONObject:
    """A message of the output; without ``text`` as it is when it begins."""
    content = [] if text is None else [_text(text)]
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _text(text: str) -> JSONObject:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def function_call(id: str, call_id: str, name: str, arguments: str, status: Status) -> JSONObject:
    """A function call of the output; ``arguments`` is JSON as text."""
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


# -- events ----------------------------------------------------------------------------------------


class Events:
    """The events of one stream, numbered as they are made.

    The order is: `begun`; for each item of the output `added`, its own events, `done`; then `ended`.
    """

    def __init__(self) -> None:
        self._next = 0

    def begun(self, response: JSONObject) -> list[JSONObject]:
        """The two events that open the stream."""
        opening = ("response.created", "response.in_progress")
        return [self._event(kind, response=response) for kind in opening]

    def added(self, output_index: int, item: JSONObject) -> JSONObject:
        """An item of the output begins."""
        return self._event("response.output_item.added", output_index=output_index, item=item)

    def done(self, output_index: int, item: JSONObject) -> JSONObject:
        """An item is finished; this is all of it."""
        return self._event("response.output_item.done", output_index=output_index, item=item)

    def text_added(self, output_index: int, item_id: str) -> JSONObject:
        """A text begins in a message."""
        return self._text_event(
            "response.content_part.added", output_index, item_id, part=_text("")
        )

    def text_delta(self, output_index: int, item_id: str, delta: str) -> JSONObject:
        """More of the text."""
        kind = "response.output_text.delta"
        return self._text_event(kind, output_index, item_id, delta=delta, logprobs=[])

    def text_done(self, output_index: int, item_id: str, text: str) -> list[JSONObject]:
        """The two events that close a text."""
        place = (output_index, item_id)
        return [
            self._text_event("response.output_text.done", *place, text=text, logprobs=[]),
            self._text_event("response.content_part.done", *place, part=_text(text)),
        ]

    def arguments_delta(self, output_index: int, item_id: str, delta: str) -> JSONObject:
        """More of a function call's arguments."""
        return self._event(
            "response.function_call_arguments.delta",
            item_id=item_id,
            output_index=output_index,
            delta=delta,
        )

    def arguments_done(
        self, output_index: int, item_id: str, name: str, arguments: str
    ) -> JSONObject:
        """A function call's arguments are whole."""
        return self._event(
            "response.function_call_arguments.done",
            item_id=item_id,
            output_index=output_index,
            name=name,
            arguments=arguments,
        )

    def ended(self, response: JSONObject) -> JSONObject:
        """The last event: the whole response, completed or incomplete as its status says."""
        return self._event(f"response.{response['status']}", response=response)

    def _text_event(self, kind: str, output_index: int, item_id: str, **fields: Any) -> JSONObject:
        place = {"item_id": item_id, "output_index": output_index, "content_index": 0}
        return self._event(kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> JSONObject:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "sequence_number": number, **fields}


def encode(event: JSONObject) -> bytes:
    """One event of a stream, named by its type."""
    return encode_event(json.dumps(event, separators=(",", ":")), event["type"])
