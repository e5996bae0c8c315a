"""Every instance and every lease, and the ways in which they change. Pure; decides nothing.

Knows: state, leases, failures and memory of each instance; that each change is an action for somebody to carry out.
Does not know: the queue, or why anything changes: that is the scheduler's, the only one who calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from enginery.engine.placement import Bytes, Resident
from enginery.engine.restarts import RestartRecord
from enginery.engine.seam import (
    Action,
    Evict,
    Examine,
    Grant,
    InstanceView,
    Moved,
    Probe,
    QueuedRequest,
    Sleep,
    Start,
    Stop,
    Unloaded,
    Wake,
)
from enginery.errors import EngineryError
from enginery.lifecycle import STATES, State, Trigger, advance
from enginery.values import Memory, Variant

__all__ = ["Instance", "Roster", "Traits"]


@dataclass(frozen=True, slots=True)
class Traits:
    """How one variant wants to be treated; times in seconds.

    Args:
        memory: what its plugin estimates; None: unknown.
        ttl: idle for this long, it is stopped; None: never.
        pin: it is never stopped to make room, nor for being idle.
        sleep_level: how it sleeps when it makes room or is idle; None: it cannot, or shall not.
        sleep_after: idle for this long, it is put to sleep; None: not for being idle.
        attached: somebody else runs it: it needs no room, is in nobody's way and may be out of reach.
    """

    memory: Memory | None = None
    ttl: float | None = None
    pin: bool = False
    sleep_level: int | None = None
    sleep_after: float | None = None
    attached: bool = False


@dataclass(slots=True)
class Instance:
    """One variant that was started at least once."""

    variant: Variant
    traits: Traits
    record: RestartRecord
    state: State = State.STOPPED
    generation: int = 0
    leases: set[int] = field(default_factory=set)
    since: float = 0.0
    idle_since: float = 0.0
    swap_began: float = 0.0
    ready_at: float = 0.0
    load_s: float = 1.0
    drain_until: float = 0.0
    drain_to_sleep: bool = False
    probing: bool = False
    suspect: bool = False
    examined: bool = False
    reason: str = ""
    error: EngineryError | None = None
    measured: Mapping[str, int] | None = None
    unloading: list[int] = field(default_factory=list)
    successor: Variant | None = None
    """What its next process is started as, where the present one has to end first."""
    retired: bool = False
    """It is not configured any more."""

    @property
    def holds_process(self) -> bool:
        """True while something of it is to be ended: a process, or the looking after another's."""
        return self.resident or self.state is State.UNREACHABLE

    @property
    def resident(self) -> bool:
        """True while it holds memory."""
        return STATES[self.state].resident

    @property
    def ready_memory(self) -> Bytes | None:
        """Bytes while serving: measured in an earlier life or this one, else estimated, else None."""
        if self.measured is not None:
            return self.measured
        return None if self.traits.memory is None else self.traits.memory.ready

    @property
    def asleep_memory(self) -> Bytes:
        """Bytes while asleep; a plugin that does not say means none."""
        return {} if self.traits.memory is None else self.traits.memory.asleep

    @property
    def memory(self) -> Bytes | None:
        """Bytes that it holds in its present state."""
        return self.asleep_memory if self.state is State.ASLEEP else self.ready_memory

    def idle_for(self, now: float) -> float:
        """Seconds without a lease; 0 while there is one."""
        return 0.0 if self.leases else max(0.0, now - self.idle_since)

    def as_resident(self, now: float, *, wanted: bool) -> Resident:
        """How `place` sees it."""
        awake = self.state in {State.READY, State.STARTING, State.WAKING}
        can_sleep = self.state is State.READY and self.traits.sleep_level is not None
        return Resident(
            id=self.variant.id,
            memory=self.memory,
            asleep_memory=self.asleep_memory if can_sleep else None,
            leaving=self.state in {State.DRAINING, State.GOING_TO_SLEEP, State.STOPPING},
            asleep=self.state is State.ASLEEP,
            pinned=self.traits.pin,
            leaked=self.state is State.LEAKED,
            busy=bool(self.leases) or (awake and wanted),
            idle_s=self.idle_for(now),
            load_s=self.load_s,
            note=self.reason,
        )

    def view(self, queued: int) -> InstanceView:
        """A copy for status pages."""
        return InstanceView(
            variant=self.variant,
            state=self.state,
            generation=self.generation,
            in_flight=len(self.leases),
            queued=queued,
            since=self.since,
            idle_since=self.idle_since,
            reason=self.reason,
            error=self.error,
            memory=self.memory if self.resident else None,
            retry_at=self.record.retry_at if self.state is State.FAILED else None,
            quarantined=self.record.quarantined,
            ttl=self.traits.ttl if not self.traits.pin else None,
            suspect=self.suspect,
        )


class Roster:
    """All instances and leases. Each change is appended to ``out`` as the action that it means.

    Args:
        traits: how a variant wants to be treated; asked at each start.
        drain_timeout: seconds that open leases get when their engine is to go.
        devices: those of the budget: an engine's size is known when it is on each of them.
    """

    def __init__(
        self,
        traits: Callable[[Variant], Traits],
        drain_timeout: float,
        devices: Collection[str] = (),
    ) -> None:
        self.instances: dict[str, Instance] = {}
        self.leases: dict[int, Instance] = {}
        self.out: list[Action] = []
        self._traits = traits
        self._drain_timeout = drain_timeout
        self._devices = frozenset(devices)
        self._last_lease = 0

    def adopt(self, drain_timeout: float, devices: Collection[str]) -> None:
        """Other numbers, for drains that begin from now on."""
        self._drain_timeout = drain_timeout
        self._devices = frozenset(devices)

    def refresh(self, one: Instance, variant: Variant) -> None:
        """It goes on as it is, and is treated as ``variant``'s model says now."""
        one.variant = variant
        one.traits = self._traits(variant)

    def renew(self, one: Instance, variant: Variant) -> None:
        """No process of it is left, and the next is ``variant``'s: what was measured counts no more."""
        if one.variant != variant:
            one.measured = None
        one.successor = None
        self.refresh(one, variant)

    def new(self, variant: Variant, record: RestartRecord) -> Instance:
        """An instance that is not on the roster before its first `bring_up`."""
        return Instance(variant, self._traits(variant), record)

    def bring_up(self, one: Instance, now: float) -> None:
        """Wake it if it sleeps, else start it: a new generation."""
        one.swap_began = now
        if one.state is State.ASLEEP:
            self.move(one, Trigger.WAKE, now)
            self.out.append(Wake(one.variant.id, one.generation))
            return
        self.instances[one.variant.id] = one
        one.traits = self._traits(one.variant)
        one.generation += 1
        one.error = None
        self.move(one, Trigger.START, now)
        self.out.append(Start(one.variant, one.variant.id, one.generation))

    def probe(self, one: Instance) -> None:
        """Have an attached one looked at."""
        one.probing = True
        self.out.append(Probe(one.variant.id, one.generation))

    def suspect(self, one: Instance, reason: str) -> None:
        """It fell silent, or is known to have: no new leases before it has generated a token."""
        if not one.suspect:
            one.suspect = True
            self._note(one, reason)
        if not one.examined:
            one.examined = True
            self.out.append(Examine(one.variant.id, one.generation))

    def clear(self, one: Instance, now: float) -> None:
        """It generates."""
        one.suspect = one.examined = False
        if one.state is State.UNREACHABLE:
            self.found(one, now)
        else:
            self._note(one, "")

    def _note(self, one: Instance, reason: str) -> None:
        one.reason = reason
        self.out.append(Moved(one.variant, one.generation, one.state, one.state, reason))

    def found(self, one: Instance, now: float) -> None:
        """An attached one answers again."""
        one.error = None
        self.move(one, Trigger.FOUND, now)

    def lost(self, one: Instance, error: EngineryError, now: float) -> None:
        """An attached one does not answer. Its leases stay: what it still sends may well arrive."""
        one.probing = False
        one.error = error
        if one.state is not State.UNREACHABLE:
            self.move(one, Trigger.LOST, now, error.message.partition("\n")[0])

    def drain(self, one: Instance, now: float, reason: str, *, to_sleep: bool = False) -> None:
        """No new leases from now on."""
        self.move(one, Trigger.DRAIN, now, reason)
        one.drain_to_sleep = to_sleep
        one.drain_until = now + self._drain_timeout

    def go(self, one: Instance, now: float) -> None:
        """Its drain is over: to sleep, or to the end."""
        if one.drain_to_sleep and one.traits.sleep_level is not None:
            self.move(one, Trigger.SLEEP, now, one.reason)
            self.out.append(Sleep(one.variant.id, one.generation, one.traits.sleep_level))
        else:
            self.stop(one, now, one.reason)

    def stop(self, one: Instance, now: float, reason: str) -> None:
        """Stop it, also in the middle of a start, a nap or a wake."""
        self.move(one, Trigger.STOP, now, reason)
        self.out.append(Stop(one.variant.id, one.generation, reason))

    def measured(self, one: Instance, held: Bytes, gone: Bytes) -> None:
        """It serves, and this is its memory: the driver's account before the plugin's, that before a guess."""
        estimate = one.traits.memory
        found = {**gone, **({} if estimate is None else estimate.ready), **held}
        if estimate is not None or self._devices <= found.keys():
            one.measured = found

    def failed(self, one: Instance, error: EngineryError, now: float) -> None:
        """It did not become ready, or its process ended by itself."""
        served = 0.0 if one.state is State.STARTING else now - one.ready_at
        one.record.failed(now, served)
        one.error = error
        self.move(one, Trigger.EXIT, now, error.message.partition("\n")[0])
        self.finish_unload(one)

    def lease(self, request: QueuedRequest, one: Instance, now: float) -> Grant:
        """A new lease on it for ``request``; the caller passes the grant on."""
        lease = self.take(one)
        swap = max(0.0, one.ready_at - max(request.arrived, one.swap_began))
        waited = max(0.0, now - request.arrived - swap)
        return Grant(request, lease, one.variant.id, one.generation, waited, swap)

    def take(self, one: Instance) -> int:
        """A new lease on it."""
        self._last_lease = lease = self._last_lease + 1
        one.leases.add(lease)
        self.leases[lease] = one
        return lease

    def take_out(self) -> list[Action]:
        """The actions so far, for the caller to carry out."""
        out, self.out = self.out, []
        return out

    def release(self, lease_id: int, now: float) -> None:
        """A lease ended; one that is not known (evicted before) changes nothing."""
        one = self.leases.pop(lease_id, None)
        if one is not None:
            one.leases.discard(lease_id)
            one.idle_since = now

    def evict_all(self, one: Instance, error: EngineryError) -> None:
        """Its requests end now; the holders release what is already forgotten here."""
        for lease_id in sorted(one.leases):
            del self.leases[lease_id]
            self.out.append(Evict(lease_id, error))
        one.leases.clear()

    def finish_unload(self, one: Instance, error: EngineryError | None = None) -> None:
        """Answer whoever waited for its end, once nothing else they wait for is left."""
        waiting, one.unloading = one.unloading, []
        for request_id in waiting:
            if not any(request_id in other.unloading for other in self.instances.values()):
                self.out.append(Unloaded(request_id, error))

    def move(self, one: Instance, trigger: Trigger, now: float, reason: str = "") -> None:
        """The only place where a state changes."""
        before, one.state = one.state, advance(one.state, trigger)
        one.since = now
        one.reason = reason
        one.probing = False
        if one.state not in {State.READY, State.UNREACHABLE}:
            one.suspect = one.examined = False
        if one.state is State.READY:
            one.ready_at = one.idle_since = now
            if trigger is Trigger.READY:  # a core server's sleep levels are known from now on
                level = self._traits(one.variant).sleep_level
                one.traits = replace(one.traits, sleep_level=level)
        self.out.append(Moved(one.variant, one.generation, before, one.state, reason))
        if one.successor is not None and not one.holds_process:
            self.renew(one, one.successor)
