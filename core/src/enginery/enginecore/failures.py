"""Errors as values: how an exception of the core's process becomes the same exception in the client's.

Knows: our error tree, and the built-in errors that a call may be answered with. Does not know: frames or
processes. Only classes of the table are ever built, and only from plain fields, so bytes from the other side
cannot make anything else. An error of another class arrives as an `EngineError` that names it.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from enginery import errors
from enginery.errors import ContextLengthExceeded, EngineError, EngineryError

__all__ = ["Failure", "failure_from", "failure_to_error"]

_OURS: dict[str, type[EngineryError]] = {
    cls.__name__: cls for name in errors.__all__ if (cls := getattr(errors, name))
}
_BUILT_IN: dict[str, type[Exception]] = {
    cls.__name__: cls
    for cls in (ValueError, TypeError, RuntimeError, NotImplementedError, TimeoutError)
}
_FIELDS = ("code", "param", "retry_after", "prompt_tokens", "context_length")


class Failure(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, frozen=True):
    """An error on its way: its class's name, and its fields, None where it has none."""

    kind: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    prompt_tokens: int | None = None
    context_length: int | None = None
    log_tail: tuple[str, ...] = ()


def failure_from(error: BaseException) -> Failure:
    """The value that stands for an error."""
    known = {*_OURS.values(), *_BUILT_IN.values()}
    kind = next((c for c in type(error).__mro__ if c in known), type(error)).__name__
    if isinstance(error, EngineryError):
        fields: dict[str, Any] = {name: getattr(error, name, None) for name in _FIELDS}
        tail = tuple(error.log_tail) if isinstance(error, EngineError) else ()
        return Failure(kind, error.message, log_tail=tail, **fields)
    return Failure(kind, str(error))


def failure_to_error(failure: Failure) -> Exception:
    """A new exception, as it was raised over there."""
    if failure.kind in _BUILT_IN:
        return _BUILT_IN[failure.kind](failure.message)
    cls = _OURS.get(failure.kind)
    if cls is None:
        return EngineError(
            f"{failure.kind}: {failure.message}" if failure.message else failure.kind
        )
    # constructors differ, and one adds to the message
    error: Any = cls.__new__(cls, failure.message)
    error.args = (failure.message,)
    error.message = failure.message
    error.param, error.retry_after = failure.param, failure.retry_after
    if failure.code is not None and failure.code != cls.code:
        error.code = failure.code
    if isinstance(error, EngineError):
        error.log_tail = failure.log_tail
    if isinstance(error, ContextLengthExceeded):
        error.prompt_tokens = failure.prompt_tokens
        error.context_length = failure.context_length
    return cast("EngineryError", error)
