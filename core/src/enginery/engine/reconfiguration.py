"""New settings while engines run: what follows for those that run and those who wait. Pure.

Knows: that a process cannot change what it was started with, so it drains and stops, and its next start is of the
new variant. Does not know: what the settings say, or which changes want a restart (`changes`).

    unchanged, or changed in what only routing reads   goes on, with the new variant's values
    to be restarted                                     drains; whoever wants it meanwhile waits for the next start
    not configured any more                             drains; whoever waits for it alone gets an error
"""

from __future__ import annotations

from dataclasses import replace

from enginery.engine.queue import RequestQueue
from enginery.engine.restarts import RestartRecord
from enginery.engine.roster import Instance, Roster
from enginery.engine.seam import QueuedRequest, Reconfigured, Reject
from enginery.errors import ModelNotFound
from enginery.lifecycle import State

__all__ = ["told"]

REASON = "reload: other settings"

_STOPPABLE = frozenset(
    {State.STARTING, State.GOING_TO_SLEEP, State.ASLEEP, State.WAKING, State.UNREACHABLE}
)


def told(roster: Roster, queue: RequestQueue, event: Reconfigured, now: float) -> None:
    """Live by ``event`` from now on."""
    limits = event.limits
    roster.adopt(limits.drain_timeout, limits.budget or ())
    for request in queue.take_all():
        _wait_on(roster, queue, request, event)
    for instance_id, one in roster.instances.items():
        new, was_retired = event.variants.get(instance_id), one.retired
        one.retired = new is None
        if new is None:
            _end(roster, one, now)
        elif not one.holds_process:
            if one.variant != new:
                one.record = RestartRecord(limits.restarts)
            roster.renew(one, new)
        elif was_retired or one.successor is not None or instance_id in event.restart:
            one.successor = new
            one.record = RestartRecord(limits.restarts)
            _end(roster, one, now)
        else:
            roster.refresh(one, new)


def _wait_on(
    roster: Roster, queue: RequestQueue, request: QueuedRequest, event: Reconfigured
) -> None:
    known = event.variants
    wanted = tuple(known[v.id] for v in request.candidates if v.id in known)
    if wanted:
        queue.add(replace(request, candidates=wanted))
    else:
        gone = request.candidates[0].id
        error = ModelNotFound(f"{gone} was taken out of the settings", param="model")
        roster.out.append(Reject(request, error))


def _end(roster: Roster, one: Instance, now: float) -> None:
    one.drain_to_sleep = False
    if one.state in _STOPPABLE:
        roster.stop(one, now, REASON)
    elif one.state is State.READY:
        roster.drain(one, now, REASON)
