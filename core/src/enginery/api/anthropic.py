"""Replies, events and errors of Anthropic's Messages API.

Knows: the field names of https://docs.anthropic.com/en/api/messages and the order of a stream's events.
Does not know: where texts, ids and counts come from. Plain functions that return plain dicts; `encode`
makes one event of a stream out of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from enginery.api.openai import Source
from enginery.api.sse import encode_event
from enginery.errors import EngineryError
from enginery.values import JSONObject

__all__ = [
    "StopReason",
    "block_start",
    "block_stop",
    "encode",
    "error_body",
    "input_delta",
    "message",
    "message_delta",
    "message_start",
    "message_stop",
    "text_block",
    "text_delta",
    "token_count",
    "tool_use_block",
    "usage",
]

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


def usage(input_tokens: int, output_tokens: int, *, cached_tokens: int | None = None) -> JSONObject:
    """The tokens that a message cost; ``cached_tokens`` come on top of ``input_tokens``."""
    counts: JSONObject = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    if cached_tokens is not None:
        counts["cache_read_input_tokens"] = cached_tokens
    return counts


def token_count(input_tokens: int) -> JSONObject:
    """The reply to ``/v1/messages/count_tokens``."""
    return {"input_tokens": input_tokens}


# -- whole replies ---------------------------------------------------------------------------------


def text_block(text: str) -> JSONObject:
    """Text, as one block of a message's content."""
    return {"type": "text", "text": text}


def tool_use_block(id: str, name: str, input: JSONObject) -> JSONObject:
    """The call of a tool, as one block of a message's content."""
    return {"type": "tool_use", "id": id, "name": name, "input": input}


def message(
    *,
    id: str,
    model: str,
    content: Sequence[JSONObject],
    stop_reason: StopReason | None,
    usage: JSONObject,
    stop_sequence: str | None = None,
) -> JSONObject:
    """A whole message. Without content and stop reason it is the one that `message_start` shows."""
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage,
    }


# -- events: message_start, then for each block start, deltas, stop, then message_delta, message_stop ---


def message_start(message: JSONObject) -> JSONObject:
    """The first event: the message without its content."""
    return {"type": "message_start", "message": message}


def block_start(index: int, block: JSONObject) -> JSONObject:
    """Opens the block ``index``, which is empty yet."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def text_delta(index: int, text: str) -> JSONObject:
    """More of a text block."""
    return _delta(index, {"type": "text_delta", "text": text})


def input_delta(index: int, partial_json: str) -> JSONObject:
    """More of a tool's input, as a piece of JSON."""
    return _delta(index, {"type": "input_json_delta", "partial_json": partial_json})


def _delta(index: int, delta: JSONObject) -> JSONObject:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def block_stop(index: int) -> JSONObject:
    """Closes a block."""
    return {"type": "content_block_stop", "index": index}


def message_delta(
    stop_reason: StopReason, usage: JSONObject, *, stop_sequence: str | None = None
) -> JSONObject:
    """Why it ended, and the counts at the end."""
    delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
    return {"type": "message_delta", "delta": delta, "usage": usage}


def message_stop() -> JSONObject:
    """The last event."""
    return {"type": "message_stop"}


def encode(event: JSONObject) -> bytes:
    """One event of a stream, named by its type."""
    return encode_event(json.dumps(event, separators=(",", ":")), event["type"])


# -- errors ----------------------------------------------------------------------------------------

_OVERLOADED = frozenset({429, 503, 529})


def error_body(error: EngineryError, source: Source = "gateway") -> JSONObject:
    """The body of an error reply to a messages request.

    Anthropic's two fields, and those of `enginery.api.openai.error_body`, so that a client that knows
    only the one shape finds what it looks for.
    """
    told: dict[str, Any] = {
        "type": _type(error),
        "message": error.message,
        "param": error.param,
        "code": error.code,
        "source": source,
    }
    return {"type": "error", "error": told}


def _type(error: EngineryError) -> str:
    if error.status == 413:
        return "request_too_large"
    if error.type != "server_error":
        return error.type
    return "overloaded_error" if error.status in _OVERLOADED else "api_error"
