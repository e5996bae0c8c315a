"""What `EngineManager.status` shows: one row for each instance, for people and pages.

Knows: the columns. Pure: made from the scheduler's view and the instance object, never acted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginery.engine.instance import EngineInstance
from enginery.engine.seam import InstanceView
from enginery.lifecycle import STATES, State

__all__ = ["InstanceStatus", "status_row"]


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One instance, now.

    Args:
        id: ``model/variant``.
        model: the name that clients ask for.
        variant: the variant's name.
        engine: the engine_type.
        state: one of `enginery.lifecycle.State`.
        reason: why it is in this state, where there is a reason.
        pid: the engine's process, while there is one.
        address: ``host:port`` or the path of a unix socket, while there is one.
        in_flight: open leases.
        queued: requests that wait for it.
        memory: bytes per device that it holds, where that is known.
        idle_s: seconds since its last lease ended; None while it is busy or not ready.
        ttl_left_s: seconds until it is stopped for being idle; None when it is not going to be.
        retry_in_s: seconds until a failed one may be started again; None when it did not fail.
        quarantined: it failed too often, and is not tried again until somebody asks by name.
        started_at: when its present process was launched, in seconds since the epoch.
        starts: how often it was started, for whatever reason; wakes do not count.
        restarts: how many of these came after it had failed, or was found unwell; swaps do not count.
        last_error: what ended it, if it failed.
    """

    id: str
    model: str
    variant: str
    engine: str
    state: str
    reason: str
    pid: int | None
    address: str | None
    in_flight: int
    queued: int
    memory: Mapping[str, int] | None
    idle_s: float | None
    ttl_left_s: float | None
    retry_in_s: float | None
    quarantined: bool
    started_at: float | None
    starts: int
    restarts: int
    last_error: str | None


def status_row(view: InstanceView, instance: EngineInstance | None, now: float) -> InstanceStatus:
    """The row for one instance at time ``now``."""
    resident = STATES[view.state].resident
    there = resident or view.state is State.UNREACHABLE
    endpoint = instance.endpoint if instance is not None and there else None
    rests = view.state in {State.READY, State.ASLEEP} and not view.in_flight
    idle_s = now - view.idle_since if rests else None
    ttl_left = None if idle_s is None or view.ttl is None else max(0.0, view.ttl - idle_s)
    return InstanceStatus(
        id=view.variant.id,
        model=view.variant.model,
        variant=view.variant.name,
        engine=view.variant.engine_type,
        state=str(view.state),
        reason=view.reason,
        pid=instance.pid if instance is not None and resident else None,
        address=None if endpoint is None else endpoint.address,
        in_flight=view.in_flight,
        queued=view.queued,
        memory=view.memory,
        idle_s=idle_s,
        ttl_left_s=ttl_left,
        retry_in_s=None if view.retry_at is None else max(0.0, view.retry_at - now),
        quarantined=view.quarantined,
        started_at=instance.started_at if instance is not None and resident else None,
        starts=view.generation,
        restarts=0 if instance is None else instance.restarts,
        last_error=None if view.error is None else view.error.message,
    )
