"""OpenAI's replies, whole or in chunks, as pieces of a stream.

Knows: the JSON of chat completions and completions. Does not know: connections, events or streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from enginery.errors import BadEngineReply, EngineError
from enginery.streaming.config import StreamRequest
from enginery.values import JSONObject

__all__ = ["Piece", "body_of", "decoded", "piece_of", "refusal_of"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk says."""

    text: str = ""
    finish_reason: str | None = None
    logprobs: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def body_of(request: StreamRequest, model: str) -> JSONObject:
    """The request as OpenAI's body; parameters that it has no word for go as they are."""
    params = {name: _plain(value) for name, value in request.sampling.items()}
    for flag in ("skip_special_tokens", "spaces_between_special_tokens"):
        if params.get(flag) is True:  # the default everywhere, and unknown to most
            del params[flag]
    asked: JSONObject = {"model": request.model or model, "stream": True}
    if request.messages is not None:
        asked["messages"] = list(request.messages)
        if type(count := params.get("logprobs")) is int:
            params |= {"logprobs": True, "top_logprobs": count}
    else:
        asked["prompt"] = request.prompt
    return {**asked, "stream_options": {"include_usage": True}, **params}


def decoded(data: str | bytes) -> JSONObject:
    """One JSON object. Raises `BadEngineReply`, and `EngineError` for the engine's own error."""
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise BadEngineReply(f"not a chunk of a reply: {_excerpt(data)}") from error
    if not isinstance(found, dict):
        raise BadEngineReply(f"not a chunk of a reply: {_excerpt(data)}")
    if found.get("error"):
        told = found["error"]
        raise EngineError(str(told.get("message", told) if isinstance(told, dict) else told))
    return found


def piece_of(chunk: Mapping[str, Any]) -> Piece:
    """What a chunk, or a whole reply, adds. Raises `BadEngineReply` for what is neither."""
    try:
        usage = chunk.get("usage") or {}
        text, reason = "", None
        logprobs: tuple[float, ...] = ()
        for choice in chunk["choices"]:
            said = choice.get("delta") or choice.get("message") or {}
            text += said.get("content") or choice.get("text") or ""
            reason = choice.get("finish_reason") or reason
            logprobs += _logprobs(choice.get("logprobs") or {})
        return Piece(
            text, reason, logprobs, usage.get("prompt_tokens"), usage.get("completion_tokens")
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadEngineReply(
            f"not a chunk of a reply: {_excerpt(msgspec.json.encode(chunk))}"
        ) from error


def refusal_of(who: str, status: int, body: bytes) -> EngineError:
    """An engine's 4xx or 5xx as an error."""
    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = _excerpt(body)
    return EngineError(f"{who} answered {status}: {message}")


def _logprobs(found: Mapping[str, Any]) -> tuple[float, ...]:
    if found.get("content"):
        return tuple(float(each["logprob"]) for each in found["content"])
    return tuple(float(each) for each in found.get("token_logprobs") or () if each is not None)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _excerpt(data: str | bytes) -> str:
    return (data if isinstance(data, str) else data.decode("utf-8", "replace"))[:500]
