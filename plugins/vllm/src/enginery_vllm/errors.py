"""What vLLM's error replies mean, in the framework's own errors.

Knows: the shapes and sentences of vLLM's errors. Does not know: which request failed. Pure: a status and a body in, an
error or None out.

Shapes: ``{"error": {"message": str, "type": str, "param": str | null, "code": int}}``, the same inside a stream;
``{"detail": "Not Found"}`` for a route that is not there; ``{"error": "Unauthorized"}`` for a wrong key; the Messages API
has ``{"type": "error", "error": {"type", "message"}}``. ``type`` tells little: a bad value is "Bad Request" or
"BadRequestError", by who found it. Source: ``vllm/entrypoints/serve/exception_handling`` and ``vllm/renderers/params.py``;
sentences measured on 0.32.0.
"""

from __future__ import annotations

import json
import re
from typing import Any

from enginery import (
    AuthenticationFailed,
    ContextLengthExceeded,
    EndpointNotSupported,
    EngineBusy,
    EngineCrashed,
    EngineryError,
    InvalidRequest,
    ModelNotFound,
)

__all__ = ["parse_error"]

RETRY_AFTER = 1.0

_CONTEXT = re.compile(r"maximum context length is (\d+) tokens")
_PROMPT = re.compile(
    r"prompt contains (?:at least )?(\d+) (?:input )?(?:tokens|characters)"
    r"|\((\d+) in the (?:messages|prompt)"  # before 0.12
)
_TOO_LONG = frozenset({"input_tokens", "input_text"})
_CHARACTERS = re.compile(r"contains (?:at least )?\d+ characters")
_ENGINE_DEAD = "EngineCore encountered an issue"


def parse_error(status: int, body: bytes) -> EngineryError | None:
    """What the reply means; None when it says no more than its status.

    Args:
        status: the reply's HTTP status, or the ``code`` inside an error that came in a stream.
        body: the reply's body, or the JSON of that stream event.
    """
    said = _object(body)
    error = said.get("error")
    if status == 401:
        return AuthenticationFailed(
            "the vLLM server refuses our key: it was started by somebody else, with another"
        )
    if said.get("detail") == "Not Found":
        return EndpointNotSupported("vLLM has no such route, for this model or in this version")
    if isinstance(error, str):
        return EngineBusy(f"vLLM: {error}", retry_after=RETRY_AFTER) if status == 503 else None
    if not isinstance(error, dict) or isinstance(error.get("code"), str):
        return None  # the framework's own server, in process, has words for codes
    message = str(error.get("message", ""))
    if _is_overflow(error, message):
        return _overflow(message)
    if _ENGINE_DEAD in message:
        return EngineCrashed("vLLM's engine core has died; the server is about to end, too")
    if status == 503:
        return EngineBusy(f"vLLM: {message}", retry_after=RETRY_AFTER)
    if status == 404 and "model `" in message:
        return ModelNotFound(f"vLLM: {message}")
    return _mistake(status, error, message)


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_overflow(error: dict[str, Any], message: str) -> bool:
    return _CONTEXT.search(message) is not None and (
        error.get("param") in _TOO_LONG or _PROMPT.search(message) is not None
    )


def _overflow(message: str) -> ContextLengthExceeded:
    """Both numbers. vLLM stops counting one token after the limit, so the prompt's is the least that it has."""
    limit = _CONTEXT.search(message)
    context = None if limit is None else int(limit[1])
    found = None if _CHARACTERS.search(message) else _PROMPT.search(message)
    prompt = None if found is None else int(next(number for number in found.groups() if number))
    exact = prompt is not None and "at least" not in message
    if prompt is None and context is not None:
        prompt = context + 1
    return ContextLengthExceeded(
        f"the prompt has {'' if exact else 'at least '}{prompt} tokens, this variant takes {context} "
        "(prompt and reply together)",
        prompt_tokens=prompt,
        context_length=context,
    )


def _mistake(status: int, error: dict[str, Any], message: str) -> InvalidRequest | None:
    """A 400 or 422 with the field's own name: vLLM writes ``body.messages.0.SomeMessageParam.role``."""
    if status not in {400, 422}:
        return None
    param = error.get("param")
    if not isinstance(param, str) or not param:
        return InvalidRequest(f"vLLM: {message}") if message else None
    names = [part for part in param.removeprefix("body.").split(".") if not part[:1].isupper()]
    if all(name.isdigit() for name in names):  # a place in a body that is no JSON
        return InvalidRequest(f"vLLM: {message}")
    return InvalidRequest(f"vLLM: {message}", param=".".join(names))
