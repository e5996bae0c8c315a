"""Errors as replies: one shape for all of them, whoever made them.

Knows: the error tree, what engines answer when they refuse, how each API's clients read an error. Does not
know: where in a request's way it happened.

Every body has ``error`` with message, type, param, code and source, which OpenAI's clients read; on
Anthropic's routes ``type: error`` stands beside it, which theirs read.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from enginery.api.endings import Api
from enginery.api.openai import error_body, error_headers
from enginery.errors import EngineError, EngineryError
from enginery.gateway.framing import ResponseHead
from enginery.plugins import EngineHooks
from enginery.values import JSONObject

__all__ = ["as_error", "error_reply", "from_engine"]

_ENGINE_TEXT = 2000
"""Characters of an engine's own error text that are passed on."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "server_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_TRY_AGAIN = frozenset({"engine_loading", "engine_busy"})
"""Codes with which an engine refuses before it has begun: asking again does nothing twice."""


def error_reply(
    error: EngineryError, api: Api = "chat", *, engine_saw_request: bool = False
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a reply that tells ``error``.

    Args:
        error: what to tell.
        api: whose clients will read it.
        engine_saw_request: an engine may have begun with it, so no client shall send it again.
    """
    body = error_body(error, error.source)
    if api == "messages":
        body = {"type": "error", **body}
    again = not engine_saw_request or error.code in _TRY_AGAIN
    headers = error_headers(error, engine_saw_request=not again)
    # a client's own odd bytes may be in the message, as half surrogates
    return error.status, headers, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def from_engine(head: ResponseHead, body: bytes, hooks: EngineHooks, who: str) -> EngineryError:
    """What an engine's own refusal says, in our shape and with its status.

    The plugin's `parse_error` recognises overflow, loading and the like; what it does not know keeps the
    engine's message, type, param and code.
    """
    status = head.status
    try:
        known = hooks.parse_error(status, body)
    except EngineryError as error:
        return error
    if known is None:
        known = _in_its_words(status, body, who)
        known.retry_after = _retry_after(head)
    elif known.status != status and status < 500 and known.status >= 500:
        known.status = status
    known.source = "engine"
    return known


def as_error(problem: BaseException) -> EngineryError:
    """A defect of ours as an error: the client learns that it is not its fault, the log the rest."""
    return EngineryError(f"internal error: {type(problem).__name__}; the gateway's log says more")


def _in_its_words(status: int, body: bytes, who: str) -> EngineError:
    said = _error_object(body)
    text = said.get("message")
    message = text if isinstance(text, str) and text else _plain(body)
    error = EngineError(message[:_ENGINE_TEXT] or f"{who} answered {status} without a word")
    error.status = status
    error.type = _text(said.get("type")) or _TYPES.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    code = said.get("code")
    error.code = _text(code) or ("engine_error" if status >= 500 else error.type)
    error.param = _text(said.get("param"))
    return error


def _error_object(body: bytes) -> JSONObject:
    """The object in which an engine says what is wrong: OpenAI's, Anthropic's, FastAPI's or bare."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    for name in ("error", "detail", "message"):
        inner = found.get(name)
        if isinstance(inner, dict):
            return inner
        if isinstance(inner, str):
            return {**found, "message": inner}
        if inner is not None and name == "detail":  # FastAPI's list of problems
            return {"message": json.dumps(inner, ensure_ascii=False)}
    return found


def _plain(body: bytes) -> str:
    text = body[: 4 * _ENGINE_TEXT].decode("utf-8", "replace").strip()
    return " ".join(text.split())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _retry_after(head: ResponseHead) -> float | None:
    value = head.get(b"retry-after")
    return float(value) if value.isdigit() and len(value) < 6 else None
