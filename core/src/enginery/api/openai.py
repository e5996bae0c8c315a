"""Replies, chunks and errors in OpenAI's shape.

Knows: the field names of chat completions, completions, models and errors
(https://platform.openai.com/docs/api-reference). Does not know: where texts, ids and times come from,
so that a mock can be deterministic. Plain functions that return plain dicts, ready to be encoded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from enginery.api.sse import DONE, encode_event
from enginery.errors import EngineryError
from enginery.values import JSONObject

__all__ = [
    "FinishReason",
    "Source",
    "chat_chunk",
    "chat_completion",
    "error_body",
    "error_headers",
    "model_card",
    "models_list",
    "stream_error",
    "text_chunk",
    "text_completion",
    "tool_call",
    "usage",
]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort"]
"""OpenAI's, and vLLM's ``abort``: the server was told to end the reply."""
Source = Literal["gateway", "engine"]


def usage(
    prompt_tokens: int, completion_tokens: int, *, cached_tokens: int | None = None
) -> JSONObject:
    """The tokens that a reply cost; ``cached_tokens`` is the part of the prompt not computed anew."""
    counts: JSONObject = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return counts


# -- chat ------------------------------------------------------------------------------------------


def chat_completion(
    *,
    id: str,
    created: int,
    model: str,
    content: str | None,
    finish_reason: FinishReason,
    usage: JSONObject,
    tool_calls: Sequence[JSONObject] = (),
) -> JSONObject:
    """A whole chat reply with one choice; ``created`` in seconds since 1970."""
    message: JSONObject = {"role": "assistant", "content": content}
    if tool_calls:
        message["tool_calls"] = list(tool_calls)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    return _reply("chat.completion", id, created, model, [choice], usage)


def chat_chunk(
    *,
    id: str,
    created: int,
    model: str,
    delta: JSONObject | None = None,
    finish_reason: FinishReason | None = None,
    usage: JSONObject | None = None,
) -> JSONObject:
    """One chunk of a chat stream; without ``delta`` the chunk that carries only ``usage``."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    choices = [] if delta is None else [choice]
    return _reply("chat.completion.chunk", id, created, model, choices, usage)


def tool_call(id: str, name: str, arguments: str, *, index: int | None = None) -> JSONObject:
    """The call of a function; ``arguments`` is JSON as text.

    In a stream ``index`` says which call it is; further pieces of its arguments carry that, and no id.
    """
    call: JSONObject = {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    return call if index is None else {"index": index, **call}


# -- completions -----------------------------------------------------------------------------------


def text_completion(
    *,
    id: str,
    created: int,
    model: str,
    text: str,
    finish_reason: FinishReason,
    usage: JSONObject,
) -> JSONObject:
    """A whole text completion with one choice."""
    choices = [_text_choice(text, finish_reason)]
    return _reply("text_completion", id, created, model, choices, usage)


def text_chunk(
    *,
    id: str,
    created: int,
    model: str,
    text: str | None = None,
    finish_reason: FinishReason | None = None,
    usage: JSONObject | None = None,
) -> JSONObject:
    """One chunk of a completion stream; without ``text`` the chunk that carries only ``usage``."""
    choices = [] if text is None else [_text_choice(text, finish_reason)]
    return _reply("text_completion", id, created, model, choices, usage)


def _text_choice(text: str, finish_reason: FinishReason | None) -> JSONObject:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _reply(
    object: str,
    id: str,
    created: int,
    model: str,
    choices: list[JSONObject],
    usage: JSONObject | None,
) -> JSONObject:
    reply: JSONObject = {
        "id": id,
        "object": object,
        "created": created,
        "model": model,
        "choices": choices,
    }
    if usage is not None:
        reply["usage"] = usage
    return reply


# -- models ----------------------------------------------------------------------------------------


def model_card(id: str, *, created: int, owned_by: str, **more: Any) -> JSONObject:
    """One row of ``/v1/models``; ``more`` is what we add to OpenAI's four fields."""
    return {"id": id, "object": "model", "created": created, "owned_by": owned_by, **more}


def models_list(cards: Iterable[JSONObject]) -> JSONObject:
    """The reply to ``/v1/models``."""
    return {"object": "list", "data": list(cards)}


# -- errors ----------------------------------------------------------------------------------------


def error_body(error: EngineryError, source: Source = "gateway") -> JSONObject:
    """The body of an error reply; ``source`` says who answers, the gateway or an engine."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "source": source,
        }
    }


def error_headers(error: EngineryError, *, engine_saw_request: bool = False) -> dict[str, str]:
    """The headers that go with `error_body`.

    ``Retry-After`` in whole seconds, rounded up, where the error says when to come back; OpenAI's
    clients give up at once when it is over 120. ``x-should-retry: false`` once an engine may have seen
    the request: the clients would send it a second time.
    """
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(max(0.0, error.retry_after)))
    if engine_saw_request:
        headers["x-should-retry"] = "false"
    return headers


def stream_error(error: EngineryError, *, sequence_number: int = 0, done: bool = True) -> bytes:
    """The frame that ends a stream with an error, after the event before it was closed.

    One shape that raises in the official clients of OpenAI (chat, completions, responses) and
    Anthropic: flat fields for those that look at the top, a nested error for the others.

    Args:
        error: what went wrong.
        sequence_number: for the Responses API, whose events are numbered.
        done: adds ``data: [DONE]``, which chat and completions end with and the other APIs do not.
    """
    frame = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": None,
        "sequence_number": sequence_number,
        "error": {"type": error.type, "code": error.code, "message": error.message},
    }
    data = json.dumps(frame, separators=(",", ":"), ensure_ascii=False)
    return encode_event(data, "error") + (DONE if done else b"")
