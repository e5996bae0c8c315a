"""The error tree. Each class knows the HTTP status and the OpenAI ``code`` that it means.

    EngineryError
      ├─ ConfigError                 a settings file, flag or environment variable is wrong
      ├─ PluginError                 a plugin cannot be used, or one of its hooks failed
      ├─ InvalidRequest              400, the body or a parameter is wrong
      │    ├─ ContextLengthExceeded  400, the prompt fits no variant
      │    ├─ MethodNotAllowed       405
      │    ├─ BodyTooLarge           413
      │    ├─ UnsupportedMediaType   415
      │    └─ RequestTimeout         408, the request did not come in time
      ├─ AuthenticationFailed        401
      ├─ AccessDenied                403, wrong host, origin, or an admin key is needed
      ├─ ModelNotFound               404
      ├─ EndpointNotSupported        404, the engine lacks the route
      ├─ QueueFull                   429
      ├─ UnsupportedOperation        501, a capability that is missing
      ├─ ShuttingDown                503, also named EngineClosedError
      └─ EngineError                 whatever an engine causes
           ├─ EngineStartFailed      502, with the last log lines
           ├─ EngineCrashed          502, also named EngineDeadError
           ├─ BadEngineReply         502
           ├─ EngineUnreachable      502
           ├─ EngineEvicted          503
           ├─ EngineQuarantined      503
           ├─ EngineLoading          503
           ├─ EngineBusy             503
           ├─ EngineLeaked           500, a process that will not die
           └─ EngineTimeout          504, also a TimeoutError

Foreign errors (aiohttp, OSError) are translated where they enter: `engine.transport` for HTTP,
`engine.process` for processes, `plugins` for hooks. Codes are an interface: they never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "BadEngineReply",
    "BodyTooLarge",
    "ConfigError",
    "ContextLengthExceeded",
    "EndpointNotSupported",
    "EngineBusy",
    "EngineClosedError",
    "EngineCrashed",
    "EngineDeadError",
    "EngineError",
    "EngineEvicted",
    "EngineLeaked",
    "EngineLoading",
    "EngineQuarantined",
    "EngineStartFailed",
    "EngineTimeout",
    "EngineUnreachable",
    "EngineryError",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "PluginError",
    "QueueFull",
    "RequestTimeout",
    "ShuttingDown",
    "UnsupportedMediaType",
    "UnsupportedOperation",
]


class EngineryError(Exception):
    """Base of every error that this framework raises on purpose.

    Args:
        message: what is wrong and what to do, for a person.
        param: the request field or setting at fault, where there is one.
        code: overrides the class's code (`AccessDenied` has three).
        retry_after: seconds after which trying again makes sense; None says nothing.

    ``source`` is who answers: ``"engine"`` where an engine's own refusal is passed on.
    """

    status: int = 500
    code: str = "internal_error"
    type: str = "server_error"
    source: Literal["gateway", "engine"] = "gateway"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    def again(self) -> Self:
        """The same error as a new object, for another waiter: each has a traceback of its own.

        Works for subclasses whose constructors take other arguments.
        """
        twin = type(self).__new__(type(self), *self.args)
        twin.args = self.args  # OSError, and so TimeoutError, takes none from __new__ alone
        twin.__dict__.update(self.__dict__)
        twin.__cause__ = self.__cause__
        return twin


class ConfigError(EngineryError):
    """A settings file, flag or environment variable is wrong; the message names the place."""

    code = "config_error"


class PluginError(EngineryError):
    """A plugin cannot be used, or one of its hooks raised something of its own."""

    status = 502
    code = "plugin_error"


class InvalidRequest(EngineryError, ValueError):
    """The body or a parameter is wrong; ``param`` names it. A ValueError too, for Python callers."""

    status = 400
    code = "invalid_request_error"
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, with one token of a reply, fits no variant.

    Args:
        message: for a person; both numbers are in it.
        prompt_tokens: what the prompt has, or the best lower bound.
        context_length: the most that is on offer.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        context_length: int | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class MethodNotAllowed(InvalidRequest):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTooLarge(InvalidRequest):
    """The body is over the limit, which the message gives in bytes."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is compressed, or of a type that no engine takes."""

    status = 415
    code = "unsupported_media_type"


class RequestTimeout(InvalidRequest):
    """The request's head or body did not come in time."""

    status = 408
    code = "request_timeout"
    type = "server_error"


class AuthenticationFailed(EngineryError):
    """No key, or an unknown one."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class AccessDenied(EngineryError):
    """Wrong host, wrong origin, or a key that is not an admin's."""

    status = 403
    code = "admin_required"
    type = "permission_error"


class ModelNotFound(EngineryError):
    """No such model; the message gives the nearest names."""

    status = 404
    code = "model_not_found"
    type = "not_found_error"


class EndpointNotSupported(EngineryError):
    """The model's engine lacks this route; the message lists those it has."""

    status = 404
    code = "endpoint_not_supported"
    type = "not_found_error"


class QueueFull(EngineryError):
    """As many requests wait, or hold as much, as are allowed to; ``retry_after`` is at most 120 s."""

    status = 429
    code = "queue_full"
    type = "rate_limit_error"


class UnsupportedOperation(EngineryError):
    """A capability that is missing; the message names what has it."""

    status = 501
    code = "unsupported_operation"


class ShuttingDown(EngineryError):
    """We are closing, or closed."""

    status = 503
    code = "shutting_down"


class EngineError(EngineryError):
    """Parent of all that an engine causes.

    ``log_tail`` holds the engine's last lines; those that say something are in the message too.
    """

    status = 502
    code = "engine_error"

    def __init__(
        self,
        message: str,
        *,
        log_tail: Sequence[str] = (),
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        lines = [line for line in log_tail if line.strip()]
        if lines:
            message = message + "\nlast lines of its log:\n" + "\n".join(f"  {x}" for x in lines)
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        self.log_tail = tuple(log_tail)


class EngineStartFailed(EngineError):
    """The engine could not be started, or ended before it was ready."""

    code = "engine_start_failed"


class EngineCrashed(EngineError):
    """The engine ended by itself while it was serving.

    ``exit_code`` and ``signal`` say how, where that is known; they do not travel.
    """

    code = "engine_crashed"
    exit_code: int | None = None
    signal: int | None = None


class BadEngineReply(EngineError):
    """The engine answered with something that is no answer."""

    code = "bad_engine_reply"


class EngineUnreachable(EngineError):
    """Nothing answers at the engine's address."""

    code = "engine_unreachable"


class EngineEvicted(EngineError):
    """The engine made room for another; ask again and it is loaded again."""

    status = 503
    code = "engine_evicted"


class EngineQuarantined(EngineError):
    """The engine failed too often; it is not tried again until somebody asks."""

    status = 503
    code = "engine_quarantined"


class EngineLoading(EngineError):
    """The engine is still loading its model."""

    status = 503
    code = "engine_loading"


class EngineBusy(EngineError):
    """The engine, or every engine that could serve this, has no room now."""

    status = 503
    code = "engine_busy"


class EngineLeaked(EngineError):
    """A process that survives SIGKILL, with all that it holds; the message names it and its pid."""

    status = 500
    code = "engine_leaked"


class EngineTimeout(EngineError, TimeoutError):
    """A deadline passed: load, first byte, or stalled tokens."""

    status = 504
    code = "engine_timeout"


EngineDeadError = EngineCrashed
EngineClosedError = ShuttingDown
