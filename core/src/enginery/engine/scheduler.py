"""Who runs, who waits, who goes: every instance's state, every lease and the queue.

Pure: events and the time in, actions out; no I/O, no clock, no task. Nobody else decides on an
instance's state, so there is nothing to lock and nothing to look at first. Does not know: how engines
are started, or requests forwarded. Who fits beside whom is `placement`'s, when a failed engine may start again
`restarts`', when to look again `waking`'s, and what a refused request is told `refusals`'.

* A request whose model is resident is granted in the same call, so a resident model's traffic is
  never held up by a swap that can wait.
* A waiting model gets its turn when there is room; or when those in its way are idle; or, once its oldest request
  has waited ``max_wait``, when they have served for ``min_residency``. So nobody starves.
* A turn ends with a drain: no new leases, at most ``drain_timeout`` for the open ones, then eviction.
* Among waiting models the overdue ones go first, oldest first; then by priority and age.
* A load that everybody left goes on, unless another model needs its room: a client that times out and tries
  again finds it further on, not back at the start.
* An engine that failed is not started again before its back-off is over; who asks for it by name does not wait.
* An engine that fell silent gets no new lease before it has generated a token; one that does not is restarted.
* What other settings mean for engines that run is `reconfiguration`'s.
* A server that somebody else runs takes no room and makes none. While it is out of reach, each request has it
  looked at, and gets its lease or its error from what is seen then.

Without a budget one engine is resident at a time. With k other models that have an older waiting request,
nobody then waits longer than max_wait + (k + 2) × (min_residency + drain_timeout + stop + load).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from enginery.engine import reach, reconfiguration, refusals, suspicion
from enginery.engine.placement import Bytes, Placement, place
from enginery.engine.policy import SchedulingLimits
from enginery.engine.queue import Group, RequestQueue
from enginery.engine.restarts import RestartRecord
from enginery.engine.roster import Instance, Roster, Traits
from enginery.engine.seam import (
    SWAP_TO,
    Action,
    Cancelled,
    Event,
    Exited,
    Failed,
    InstanceView,
    MemoryMeasured,
    Outcome,
    QueuedRequest,
    Ready,
    Reconfigured,
    Reject,
    Released,
    Requested,
    ShutdownAsked,
    SleepFailed,
    Slept,
    StopFailed,
    Stopped,
    Taken,
    Tick,
    Unhealthy,
    UnloadAsked,
    Unloaded,
    WakeMeAt,
    Woke,
)
from enginery.engine.waking import next_moment
from enginery.errors import (
    EngineEvicted,
    EngineryError,
)
from enginery.lifecycle import TRANSITIONS, State, Trigger
from enginery.values import Variant

__all__ = ["EngineScheduler", "SchedulingLimits"]

_COMING = frozenset({State.READY, State.STARTING, State.WAKING})
_STOPPABLE = frozenset(
    {State.STARTING, State.GOING_TO_SLEEP, State.ASLEEP, State.WAKING, State.UNREACHABLE}
)


class EngineScheduler:
    """The one owner. See the module's text for the policy.

    Args:
        limits: its numbers.
        traits: how a variant wants to be treated; asked at each of its starts.
    """

    def __init__(
        self,
        limits: SchedulingLimits | None = None,
        traits: Callable[[Variant], Traits] = lambda _: Traits(),
    ) -> None:
        self._limits = limits or SchedulingLimits()
        self._roster = Roster(traits, self._limits.drain_timeout, self._limits.budget or ())
        self._queue = RequestQueue()
        self._closing: float | None = None
        self._wake: float | None = None

    # -- the seam ------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Action]:
        """See `Scheduler.handle`."""
        match event:
            case Requested(request):
                self._requested(request, now)
            case Cancelled(request_id):
                self._queue.remove(request_id)
            case Released(lease_id, outcome):
                holder = self._roster.leases.get(lease_id)
                self._roster.release(lease_id, now)
                reach.released(self._roster, holder, outcome)
            case UnloadAsked():
                self._unload(event, now)
            case ShutdownAsked(grace):
                self._shut_down(now + grace)
            case Reconfigured(limits):
                self._limits = limits
                reconfiguration.told(self._roster, self._queue, event, now)
            case Tick():
                self._wake = None
            case _:
                self._reported(event, now)
        self._decide(now)
        self._ask_to_be_woken(now)
        return self._roster.take_out()

    def try_acquire(self, candidates: Sequence[Variant], now: float) -> Taken | None:  # noqa: ARG002  # the seam's
        """See `Scheduler.try_acquire`."""
        if self._closing is not None:
            return None
        instances = self._roster.instances
        for variant in candidates:
            id_ = variant.id
            one = instances.get(id_)
            if one is not None and one.state is State.READY and not one.suspect:
                return self._roster.take(one), id_, one.generation
        return None

    def try_release(self, lease_id: int, outcome: Outcome, now: float) -> bool:
        """See `Scheduler.try_release`."""
        one = self._roster.leases.get(lease_id)
        if one is None or one.state is not State.READY or len(one.leases) < 2:
            return False
        if outcome is Outcome.ENGINE_ERROR:
            return False
        # others go on using it: nothing is decided, and nobody's moment comes nearer
        self._roster.release(lease_id, now)
        return True

    def instances(self) -> list[InstanceView]:
        """See `Scheduler.instances`."""
        return [
            one.view(self._queue.waiting_for(id_))
            for id_, one in self._roster.instances.items()
            if one.holds_process or not one.retired
        ]

    # -- what events do ------------------------------------------------------------------------

    def _requested(self, request: QueuedRequest, now: float) -> None:
        if self._closing is not None:
            self._roster.out.append(Reject(request, refusals.closing()))
            return
        if request.asked:
            for variant in request.candidates:
                if variant.id in self._roster.instances:
                    self._roster.instances[variant.id].record.asked()
        error = refusals.down(request, self._roster.instances, now)
        model = request.candidates[0].model
        waiting = self._queue.waiting_for_model(model)
        if error is None and waiting >= self._limits.max_queue:
            error = refusals.full(model, waiting, self._limits.max_wait)
        if error is None:
            self._queue.add(request)
        else:
            self._roster.out.append(Reject(request, error))

    def _reported(self, event: Event, now: float) -> None:
        """News of one instance. News of an earlier process, or overtaken by a stop, is dropped."""
        one = self._roster.instances.get(getattr(event, "instance", ""))
        if one is None or one.generation != getattr(event, "generation", None):
            return
        lost = reach.told(self._roster, one, event, now)
        lost = suspicion.told(self._roster, one, event, now) or lost
        if lost is not None:
            self._turn_away(one, lost)
        match event, one.state:
            case Ready(), State.STARTING:
                one.load_s = now - one.swap_began
                self._roster.move(one, Trigger.READY, now)
            case Woke(), State.WAKING:
                self._roster.move(one, Trigger.WOKE, now)
            case Slept(), State.GOING_TO_SLEEP:
                self._roster.move(one, Trigger.SLEPT, now)
                self._roster.finish_unload(one)
            case MemoryMeasured(memory=held, gone=gone), _:
                self._roster.measured(one, held, gone)
            case Failed(error=error), State.STARTING:
                self._roster.failed(one, error, now)
                self._turn_away(one, error)
            case Exited(error=error), State.STOPPING:
                pass  # `Stopped` will follow
            case Exited(error=error), _ if (one.state, Trigger.EXIT) in TRANSITIONS:
                self._roster.failed(one, error, now)
                self._roster.evict_all(one, error)
            case SleepFailed(error=error), State.GOING_TO_SLEEP | State.WAKING:
                one.error = error
                self._roster.stop(one, now, _first_line(error))
            case Stopped(), State.STOPPING | State.LEAKED:
                self._roster.move(one, Trigger.GONE, now)
                self._roster.finish_unload(one)
            case StopFailed(error=error), _ if (one.state, Trigger.SURVIVED) in TRANSITIONS:
                self._roster.move(one, Trigger.SURVIVED, now, _first_line(error))
                one.error = error
                self._turn_away(one, error)
                self._roster.evict_all(one, error)
                self._roster.finish_unload(one, error)
            case Unhealthy(), State.READY if not one.leases and not one.traits.attached:
                self._roster.drain(one, now, "unhealthy")

    def _unload(self, event: UnloadAsked, now: float) -> None:
        waits = False
        for instance_id in event.instances:
            one = self._roster.instances.get(instance_id)
            if one is None or one.state is State.LEAKED:
                continue
            if not one.resident and one.state is not State.UNREACHABLE:
                continue
            waits = True
            one.unloading.append(event.request_id)
            error = EngineEvicted(f"{one.variant.id} was unloaded", retry_after=1.0)
            if one.state in {State.STARTING, State.WAKING, State.UNREACHABLE}:
                self._turn_away(one, error)
            if one.state in _STOPPABLE:
                self._roster.stop(one, now, "unload")
            elif one.state is State.READY:
                self._roster.drain(one, now, "unload")
            one.drain_to_sleep = False
            if not event.drain:
                self._roster.evict_all(one, error)
        if not waits:
            self._roster.out.append(Unloaded(event.request_id))

    def _shut_down(self, until: float) -> None:
        self._closing = until if self._closing is None else min(self._closing, until)
        for request in self._queue.take_all():
            self._roster.out.append(Reject(request, refusals.closing()))

    # -- deciding ------------------------------------------------------------------------------

    def _decide(self, now: float) -> None:
        """Everything that is due now; called after each event, and idempotent."""
        for request in self._queue.take_expired(now):
            error = refusals.waited_too_long(request, now, self._limits.max_wait)
            self._roster.out.append(Reject(request, error))
        if self._closing is None:
            self._make_room(now)
        for one in list(self._roster.instances.values()):
            if self._closing is not None:
                self._close(one, now)
            elif one.state is State.READY:
                for request in () if one.suspect else self._queue.take_for(one.variant.id):
                    self._roster.out.append(self._roster.lease(request, one, now))
                self._rest(one, now)
            elif one.state is State.ASLEEP and self._is_over(one.traits.ttl, one, now):
                self._roster.stop(one, now, "idle (ttl)")
            if one.state is State.DRAINING:
                self._go_on_draining(one, now)

    def _make_room(self, now: float) -> None:
        """Bring every model that waits nearer: start it, wake it, or make others go."""
        reserved: list[Bytes | None] = []
        for group in self._queue.groups(now, self._limits.max_wait):
            target = self._target(group, now)
            if target is None:
                continue
            if target.traits.attached:
                reach.wanted(self._roster, target, now)
                continue
            need = target.ready_memory
            others = [
                one.as_resident(now, wanted=self._queue.wants(one.variant.id))
                for one in self._roster.instances.values()
                if one.resident and one is not target and not one.traits.attached
            ]
            found = place(need, others, self._limits.budget, reserved)
            if target.state is State.LEAKED:
                found = replace(found, impossible="an earlier process of it would not die")
            if found.impossible:
                self._turn_away(target, refusals.no_room(target, found.impossible))
            elif target.resident and target.state is not State.ASLEEP:
                reserved.append(need)  # it is on its way out, and comes back when that is done
            elif found.fits:
                self._roster.bring_up(target, now)
            else:
                reserved.append(need)
                self._ask_to_go(found, group, target, now)

    def _target(self, group: Group, now: float) -> Instance | None:
        """The instance that is to serve ``group``; None when one is coming, or none may start yet."""
        known = [self._roster.instances.get(variant.id) for variant in group.candidates]
        if any(one is not None and (one.state in _COMING or one.probing) for one in known):
            return None
        for variant, one in zip(group.candidates, known, strict=True):
            if one is None:
                record = RestartRecord(self._limits.restarts)
                return self._roster.new(variant, record)
            if one.state is not State.FAILED or one.record.may_start(now):
                return one
        return None

    def _ask_to_go(self, found: Placement, group: Group, target: Instance, now: float) -> None:
        """The victims' turns end: at once if they are idle, else when the waiting is overdue."""
        overdue = now >= group.oldest + self._limits.max_wait
        for victim in (*found.stop, *found.sleep):
            one = self._roster.instances[victim]
            idle = not one.leases and not self._queue.wants(victim)
            served = now >= one.since + self._limits.min_residency
            why = f"{SWAP_TO}{target.variant.id}"
            if one.state is State.READY and (idle or (overdue and served)):
                self._roster.drain(one, now, why, to_sleep=victim in found.sleep)
            elif one.state is State.ASLEEP or (one.state in _STOPPABLE and idle):
                self._roster.stop(one, now, why)

    def _rest(self, one: Instance, now: float) -> None:
        """Nobody has used it for long enough."""
        if self._is_over(one.traits.ttl, one, now):
            self._roster.drain(one, now, "idle (ttl)")
        elif one.traits.sleep_level is not None and self._is_over(one.traits.sleep_after, one, now):
            self._roster.drain(one, now, "idle (sleep_after)", to_sleep=True)

    def _is_over(self, limit: float | None, one: Instance, now: float) -> bool:
        idle = limit is not None and not one.leases and not one.traits.pin
        return idle and limit is not None and now >= one.idle_since + limit

    def _go_on_draining(self, one: Instance, now: float) -> None:
        if one.leases and now >= one.drain_until:
            why = f"{one.variant.id} made room ({one.reason})"
            self._roster.evict_all(one, EngineEvicted(why, retry_after=1.0))
        if not one.leases:
            self._roster.go(one, now)

    def _close(self, one: Instance, now: float) -> None:
        if one.state is State.READY:
            self._roster.drain(one, now, "shutdown")
        elif one.state in _STOPPABLE:
            self._roster.stop(one, now, "shutdown")
        if one.state is State.DRAINING and self._closing is not None:
            one.drain_to_sleep = False
            one.drain_until = min(one.drain_until, self._closing)

    def _ask_to_be_woken(self, now: float) -> None:
        when = next_moment(
            now,
            self._roster.instances,
            self._queue.groups(now, self._limits.max_wait),
            self._queue.next_deadline(),
            max_wait=self._limits.max_wait,
            min_residency=self._limits.min_residency,
        )
        if when != self._wake:
            self._wake = when
            self._roster.out.append(WakeMeAt(when))

    def _turn_away(self, one: Instance, error: EngineryError) -> None:
        """Who waited for ``one`` tries the next candidate, or gets the error."""
        for request in self._queue.take_for(one.variant.id):
            others = tuple(v for v in request.candidates if v.id != one.variant.id)
            if others:
                self._queue.add(replace(request, candidates=others))
            else:
                self._roster.out.append(Reject(request, error))


def _first_line(error: EngineryError) -> str:
    return error.message.partition("\n")[0]
