"""Why a request gets an error instead of an engine, in words for the client. Pure.

Knows: the errors, and after which time trying again makes sense. Does not know: the queue's order, or what the
scheduler does next.
"""

from __future__ import annotations

from collections.abc import Mapping

from enginery.engine.roster import Instance
from enginery.engine.seam import QueuedRequest
from enginery.errors import (
    EngineBusy,
    EngineQuarantined,
    EngineryError,
    EngineStartFailed,
    QueueFull,
    ShuttingDown,
)
from enginery.lifecycle import State

__all__ = ["closing", "down", "full", "no_room", "waited_too_long"]


def closing() -> ShuttingDown:
    """Nobody is served any more."""
    return ShuttingDown("the manager is shutting down")


def down(
    request: QueuedRequest, instances: Mapping[str, Instance], now: float
) -> EngineryError | None:
    """The error for a request that none of its candidates will serve soon: all failed to start.

    One that crashed while it served is different: it is known to work, so its requests wait.
    """
    error: EngineryError | None = None
    for variant in request.candidates:
        one = instances.get(variant.id)
        if one is None or one.state is not State.FAILED or one.record.may_start(now):
            return None
        if one.record.quarantined:
            error = EngineQuarantined(
                f"{variant.id} failed too often and is not tried again until somebody loads it "
                f"by name; at last: {one.error}"
            )
        elif isinstance(one.error, EngineStartFailed):
            error = one.error.again()
            error.retry_after = max(1.0, one.record.retry_at - now)
        else:
            return None
    return error


def full(model: str, waiting: int, max_wait: float) -> QueueFull:
    """As many wait for ``model`` as may."""
    return QueueFull(
        f"{waiting} requests wait for {model!r} (max_queue)", retry_after=_patience(max_wait)
    )


def waited_too_long(request: QueuedRequest, now: float, max_wait: float) -> EngineBusy:
    """Its deadline came."""
    waited = now - request.arrived
    return EngineBusy(
        f"no engine for {request.candidates[0].model!r} became free in {waited:.0f} s "
        "(queue_timeout)",
        retry_after=_patience(max_wait),
    )


def no_room(one: Instance, why: str) -> EngineStartFailed:
    """Nothing that could be stopped would make room for ``one``."""
    return EngineStartFailed(f"{one.variant.id} cannot be loaded: {why}")


def _patience(max_wait: float) -> float:
    return min(120.0, max(1.0, max_wait))
