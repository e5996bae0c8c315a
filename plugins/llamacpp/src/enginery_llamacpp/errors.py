"""What llama.cpp's error replies mean, in the framework's own errors.

Knows: the shapes and sentences of llama.cpp's errors. Does not know: which request failed. Pure:
a status and a body in, an error or None out. llama.cpp answers some mistakes of clients with 500;
its sentence tells them from its own.

Shape: ``{"error": {"code": int, "message": str, "type": str}}``, the same inside a stream. Source:
tools/server/README.md and server-context.cpp of llama.cpp; sentences measured on b11549.
"""

from __future__ import annotations

import json
import re
from typing import Any

from enginery import (
    AuthenticationFailed,
    ContextLengthExceeded,
    EngineBusy,
    EngineLoading,
    EngineryError,
    InvalidRequest,
    UnsupportedOperation,
)

__all__ = ["parse_error"]

RETRY_AFTER = 1.0

_TOO_LARGE = re.compile(
    r"input \((\d+) tokens\) is too large to process\..*current batch size: (\d+)", re.DOTALL
)
_FIELD = re.compile(r"Field '([^']+)': ")
_SHARED_CACHE_FULL = "Context size has been exceeded"
_MISTAKES_CALLED_500 = (
    ("Failed to parse messages", "messages"),
    ("Failed to parse tool call arguments", "messages"),
    ("Failed to parse tools", "tools"),
    ("tools param requires --jinja", "tools"),
    ("image input is not supported", "messages"),
    ("audio input is not supported", "messages"),
    ("Unexpected empty grammar stack", "grammar"),
)


def parse_error(status: int, body: bytes) -> EngineryError | None:
    """What the reply means; None when it says no more than its status.

    Args:
        status: the reply's HTTP status, or the ``code`` inside an error that came in a stream.
        body: the reply's body, or the JSON of that stream event.
    """
    error = _error_object(body)
    if error is None:
        return None
    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    overflow = _overflow(kind, message, error)
    if overflow is not None:
        return overflow
    if kind == "unavailable_error" or status == 503:
        if message == "Loading model":
            return EngineLoading("llama.cpp is still loading its model", retry_after=RETRY_AFTER)
        return EngineBusy(f"llama.cpp: {message}", retry_after=RETRY_AFTER)
    if _SHARED_CACHE_FULL in message:
        # Only with --kv-unified: requests that fit each by itself met in one cache.
        return EngineBusy(
            "llama.cpp's shared KV cache is full; try again, or run it without --kv-unified",
            retry_after=RETRY_AFTER,
        )
    if kind == "not_supported_error" or status == 501:
        return UnsupportedOperation(f"llama.cpp: {message}")
    if kind == "authentication_error" or status == 401:
        return AuthenticationFailed(
            "the llama.cpp server refuses our key: it was started by somebody else, with another"
        )
    return _client_mistake(status, kind, message)


def _error_object(body: bytes) -> dict[str, Any] | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return error if isinstance(error, dict) else None


def _overflow(kind: str, message: str, error: dict[str, Any]) -> ContextLengthExceeded | None:
    if kind == "exceed_context_size_error":
        prompt, context = _number(error.get("n_prompt_tokens")), _number(error.get("n_ctx"))
    elif found := _TOO_LARGE.search(message):
        prompt, context = int(found[1]), int(found[2])
    else:
        return None
    return ContextLengthExceeded(
        f"the prompt has {_said(prompt)} tokens, this variant takes {_said(context)} "
        "(prompt and reply together)",
        prompt_tokens=prompt,
        context_length=context,
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _said(number: int | None) -> str:
    return "too many" if number is None else str(number)


def _client_mistake(status: int, kind: str, message: str) -> InvalidRequest | None:
    for sentence, param in _MISTAKES_CALLED_500:
        if sentence in message:
            return InvalidRequest(f"llama.cpp: {message}", param=param)
    if status == 400 and kind == "invalid_request_error":
        field = _FIELD.search(message)
        return InvalidRequest(f"llama.cpp: {message}", param=field[1] if field else None)
    return None
