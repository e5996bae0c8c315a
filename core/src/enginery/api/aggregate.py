"""Folds a stream into the one reply that the engine would have given without streaming.

Knows: how chunks and events of chat completions, completions, responses and messages add up, as
llama.cpp, vLLM, OpenAI and Anthropic write them. Does not know: bytes (`sse`), sockets, or the request.
Held against real llama.cpp, field by field: ``tests/llamacpp/test_folding.py``.

Fields that nobody here has heard of are carried over, so that an engine's extensions survive. What
llama.cpp adds to a reply only when it streams (``prompt_progress``) is left out, and what it says only
when it does not (``completed_at``) is put in. One difference cannot be made up for: to a conversation
that ends with a message of the assistant, llama.cpp's whole replies repeat that message and its streams
do not; for chats, its own field ``echo`` makes them agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from enginery.api.endings import Api
from enginery.api.pieces import Text, chat_parts, grow, settled, text_parts
from enginery.api.sse import SSEEvent
from enginery.errors import BadEngineReply, EngineError
from enginery.values import JSONObject

__all__ = ["Fold", "engine_error", "streaming_fields"]

_ANY = msgspec.json.Decoder(Any)
_FAULTS = (LookupError, TypeError, AttributeError, ValueError)
"""What reading a chunk of another shape raises; checking each field before would cost as much again."""


def streaming_fields(api: Api, body: Mapping[str, Any]) -> JSONObject:
    """The top-level fields that ``body`` needs so that the engine streams all that a whole reply says."""
    fields: JSONObject = {"stream": True}
    if api in {"chat", "completions"}:
        options = body.get("stream_options")
        kept = options if isinstance(options, dict) else {}
        fields["stream_options"] = {**kept, "include_usage": True}
    return fields


class Fold:
    """One stream on its way to become a reply.

    Args:
        api: the stream's; anything but ``"other"``.

    ``error_body`` is the engine's error as the body of an error reply, once `feed` has raised it: a
    plugin's ``parse_error`` may know more of it.

    Raises:
        ValueError: ``api`` is ``"other"``, whose replies are not streamed.
    """

    def __init__(self, api: Api) -> None:
        if api not in _PARTS:
            raise ValueError(f"replies of {api!r} are not folded")
        self.error_body: bytes | None = None
        self._parts = _PARTS[api]()

    @property
    def complete(self) -> bool:
        """True when the stream has said that it is over."""
        return self._parts.complete

    def feed(self, event: SSEEvent) -> None:
        """Take the next event.

        Raises:
            EngineError: the engine ended its stream with an error; ``status`` is the one it meant.
            BadEngineReply: the event is none of its API.
        """
        if event.data == "[DONE]":
            self._parts.done()
            return
        try:
            chunk: Any = _ANY.decode(event.data)
        except (msgspec.MsgspecError, RecursionError):
            raise BadEngineReply(
                f"the engine's stream holds what is no JSON: {event.data[:100]!r}"
            ) from None
        if event.event == "error" and isinstance(chunk, dict) and "error" not in chunk:
            chunk = {"error": chunk}  # llama.cpp's messages: the bare error
        self.add(chunk)

    def add(self, chunk: Any) -> None:
        """The same for a chunk that was decoded, and perhaps transformed, before."""
        if chunk is None:
            return  # llama.cpp with more prompts than slots: a prompt that waits
        if not isinstance(chunk, dict):
            raise BadEngineReply(f"the engine's stream holds what is no object: {chunk!r:.100}")
        if (error := _error_in(chunk)) is not None:
            self.error_body = msgspec.json.encode({"error": error})
            raise engine_error(error)
        try:
            self._parts.add(chunk)
        except _FAULTS as fault:
            raise BadEngineReply(
                f"the engine's stream holds what is no part of a reply ({fault!r}): {chunk!r:.200}"
            ) from None

    def finish(self) -> JSONObject:
        """The whole reply.

        Raises:
            BadEngineReply: the stream ended before it was complete, or its parts make no reply.
        """
        if not self._parts.complete:
            raise BadEngineReply("the engine's stream ended in the middle of the reply")
        try:
            return self._parts.reply()
        except _FAULTS as fault:
            raise BadEngineReply(f"the engine's stream makes no reply: {fault!r}") from None


class _Parts(Protocol):
    """What has come so far, of one API."""

    complete: bool

    def add(self, chunk: JSONObject) -> None: ...
    def done(self) -> None: ...
    def reply(self) -> JSONObject: ...


# -- errors in a stream ----------------------------------------------------------------------------

_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "server_error": 500,
    "overloaded_error": 529,
}


def engine_error(error: Mapping[str, Any]) -> EngineError:
    """An engine's error object as an error of ours, with the status and type that it means.

    The status is its ``code`` where that is a number (llama.cpp, vLLM), else what its ``type`` stands
    for in OpenAI's and Anthropic's lists, else 502.
    """
    code, kind = error.get("code"), error.get("type")
    made = EngineError(str(error.get("message") or "the engine ended its stream with an error"))
    if isinstance(kind, str):
        made.type = kind
        made.status = _STATUS_OF_TYPE.get(kind, made.status)
    if type(code) is int and 400 <= code <= 599:
        made.status = code
    elif isinstance(code, str) and code:
        made.code = code
    return made


def _error_in(chunk: JSONObject) -> Mapping[str, Any] | None:
    error = chunk.get("error")
    if chunk.get("type") == "error" and not isinstance(error, dict):
        return {**chunk, "type": "server_error"}  # OpenAI's Responses API: flat
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else None


# -- responses -------------------------------------------------------------------------------------

_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Response:
    """The last event of a response repeats all of it."""

    def __init__(self) -> None:
        self.complete = False
        self._response: JSONObject = {}

    def add(self, chunk: JSONObject) -> None:
        if chunk["type"] in _RESPONSE_ENDS:
            self._response = dict(chunk["response"])
            self.complete = True

    def done(self) -> None:
        """No end of this API, and no harm."""

    def reply(self) -> JSONObject:
        reply = self._response
        if reply.get("status") == "completed":
            # Both are llama.cpp's omissions in streams.
            reply.setdefault("completed_at", reply.get("created_at"))
            for item in reply.get("output", ()):
                if item.get("type") == "reasoning":
                    item.setdefault("status", "completed")
        return reply


# -- messages --------------------------------------------------------------------------------------


class _Message:
    """Blocks of content, each opened, filled and closed, between the start of a message and its end."""

    def __init__(self) -> None:
        self.complete = False
        self._message: JSONObject = {}
        self._blocks: dict[int, JSONObject] = {}
        self._inputs: dict[int, Text] = {}

    def add(self, chunk: JSONObject) -> None:
        match chunk["type"]:
            case "message_start":
                self._message = dict(chunk["message"])
            case "content_block_start":
                self._blocks[chunk["index"]] = {}
                grow(self._blocks[chunk["index"]], chunk["content_block"])
            case "content_block_delta":
                self._add_delta(chunk["index"], chunk["delta"])
            case "message_delta":
                usage = {**self._message.get("usage", {}), **_given(chunk.get("usage") or {})}
                self._message.update(chunk.get("delta") or {}, usage=usage)
            case "message_stop":
                self.complete = bool(self._message)

    def _add_delta(self, index: int, delta: JSONObject) -> None:
        block = self._blocks[index]
        match delta["type"]:
            case "input_json_delta":
                self._inputs.setdefault(index, Text()).append(delta["partial_json"])
            case "citations_delta":
                grow(block, {"citations": [delta["citation"]]})
            case (
                _
            ):  # text, thinking and signature: the delta's other field has the block's name for it
                grow(block, {name: value for name, value in delta.items() if name != "type"})

    def done(self) -> None:
        """No end of this API, and no harm."""

    def reply(self) -> JSONObject:
        content = []
        for index in sorted(self._blocks):
            block = settled(self._blocks[index])
            if block.get("type", "").endswith("tool_use"):
                block["input"] = _input("".join(self._inputs.get(index, ())), block.get("input"))
            content.append(block)
        return {**self._message, "content": content}


def _given(counts: JSONObject) -> JSONObject:
    return {name: value for name, value in counts.items() if value is not None}


def _input(told: str, began: Any) -> Any:
    """The input of a tool; one that was cut off is empty, as in llama.cpp's whole replies."""
    if not told:
        return began if isinstance(began, dict) else {}
    try:
        return json.loads(told)
    except ValueError:
        return {}


_PARTS: dict[Api, Callable[[], _Parts]] = {
    "chat": chat_parts,
    "completions": text_parts,
    "responses": _Response,
    "messages": _Message,
}
