"""When the scheduler has to look again although nothing happens: the next moment that changes a decision. Pure.

Knows: every rule of the policy that reads the time. Does not know: what is decided then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from enginery.engine.queue import Group
from enginery.engine.roster import Instance
from enginery.lifecycle import State

__all__ = ["next_moment"]


def next_moment(
    now: float,
    instances: Mapping[str, Instance],
    groups: Iterable[Group],
    deadline: float | None,
    *,
    max_wait: float,
    min_residency: float,
) -> float | None:
    """The earliest time after ``now`` at which time alone changes something; None: there is none.

    Args:
        now: monotonic seconds, as all times here.
        instances: all there are, by id.
        groups: those who wait.
        deadline: when the first of them gives up.
        max_wait: after so many seconds of waiting a group is overdue.
        min_residency: seconds for which an engine in use is not asked to go.
    """
    waiting = list(groups)
    times = [] if deadline is None else [deadline]
    for group in waiting:
        times.append(group.oldest + max_wait)
        times += [instances[v.id].record.retry_at for v in group.candidates if v.id in instances]
    for one in instances.values():
        if one.state is State.DRAINING:
            times.append(one.drain_until)
        elif one.state is State.READY and waiting:
            times.append(one.since + min_residency)
        times += _idle_ends(one)
    return min((time for time in times if time > now), default=None)


def _idle_ends(one: Instance) -> Iterator[float]:
    if one.state not in {State.READY, State.ASLEEP} or one.leases or one.traits.pin:
        return
    naps = one.state is State.READY and one.traits.sleep_level is not None
    for limit in (one.traits.ttl, one.traits.sleep_after if naps else None):
        if limit is not None:
            yield one.idle_since + limit
