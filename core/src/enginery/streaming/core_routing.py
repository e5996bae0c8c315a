"""Requests and outputs of an engine core, as streams have them.

Knows: how a stream's request becomes a core's, and an output a token. Does not know: who calls the client, in which
thread or loop.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

from enginery.enginecore.failures import failure_to_error
from enginery.enginecore.messages import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from enginery.enginecore.sampling import SamplingParams
from enginery.errors import EngineClosedError, EngineCrashed, EngineError, InvalidRequest
from enginery.streaming.config import StreamRequest
from enginery.streaming.feed import TokenFeed
from enginery.streaming.waiters import Waiter

__all__ = ["Router", "core_request", "is_final"]

_NUMBERS = itertools.count(1)
_PARAMETERS = frozenset(SamplingParams.__struct_fields__)
_OF_REQUESTS = frozenset({"priority", "cache_salt", "eos_token_id", "trace_headers"})


def core_request(request: StreamRequest) -> EngineCoreRequest:
    """The core's request, under a new id. Raises `InvalidRequest` for a parameter that no core knows."""
    params: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in request.sampling.items():
        if name in _PARAMETERS:
            params[name] = value
        elif name in _OF_REQUESTS:
            rest[name] = value
        else:
            raise InvalidRequest(f"{name}: no sampling parameter of an engine core", param=name)
    return EngineCoreRequest(
        f"stream-{os.getpid()}-{next(_NUMBERS)}",
        prompt=request.prompt,
        messages=None if request.messages is None else list(request.messages),
        sampling_params=SamplingParams(**params),
        **rest,
    )


def is_final(error: BaseException) -> bool:
    """True for an error that every later call will raise, too."""
    return isinstance(error, EngineCrashed | EngineClosedError)


class Router:
    """Which stream each output belongs to; the one who reads outputs owns it."""

    def __init__(self) -> None:
        self.live: dict[str, TokenFeed] = {}
        self.is_dead = False
        """The core is known to be gone. A core that dies ends its requests first, so an output may tell it."""

    def route(self, batch: EngineCoreOutputs, now: float) -> list[Waiter]:
        """Feed each stream what came for it; returns who must be woken."""
        live, woken = self.live, []
        for output in batch.outputs:
            feed = live.get(output.request_id)
            if feed is None:
                continue
            reason = output.finish_reason
            if reason is None:
                waiter = feed.put(
                    output.text, output.new_token_ids, now=now, logprobs=output.logprobs
                )
            else:
                del live[output.request_id]
                feed.usage(output.num_prompt_tokens, output.num_output_tokens)
                error = _error_of(output) if reason is FinishReason.ERROR else None
                self.is_dead |= error is not None and is_final(error)
                waiter = _last(feed, output, reason, error, now)
            if waiter is not None:
                woken.append(waiter)
        return woken

    def fail_all(self, error: BaseException) -> list[Waiter]:
        """The core is gone: every stream ends."""
        feeds, self.live = list(self.live.values()), {}
        return [waiter for feed in feeds if (waiter := feed.fail(error)) is not None]


def _error_of(output: EngineCoreOutput) -> Exception:
    if output.error is None:
        return EngineError("the request failed")
    return failure_to_error(output.error)


def _last(
    feed: TokenFeed,
    output: EngineCoreOutput,
    reason: FinishReason,
    error: Exception | None,
    now: float,
) -> Waiter | None:
    if reason is FinishReason.ABORT and not output.new_token_ids and not output.text:
        return feed.close()
    if error is not None:
        if output.text or output.new_token_ids:
            feed.put(output.text, output.new_token_ids, now=now, logprobs=output.logprobs)
        return feed.fail(error, now=now)
    return (
        feed.put(
            output.text,
            output.new_token_ids,
            now=now,
            logprobs=output.logprobs,
            finish_reason=str(reason),
            is_special=reason is FinishReason.STOP and not isinstance(output.stop_reason, str),
        )
        or feed.close()
    )
