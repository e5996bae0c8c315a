"""A simulated machine for the scheduler: engines that load, fail, crash, sleep and stop in bounded time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from enginery.engine.roster import Traits
from enginery.engine.scheduler import EngineScheduler, SchedulingLimits
from enginery.engine.seam import (
    Action,
    Cancelled,
    Cleared,
    Condemned,
    Event,
    Evict,
    Examine,
    Exited,
    Failed,
    Grant,
    Outcome,
    QueuedRequest,
    Ready,
    Reject,
    Released,
    Requested,
    Sleep,
    Slept,
    Start,
    Stop,
    Stopped,
    Tick,
    Unloaded,
    Wake,
    WakeMeAt,
    Woke,
)
from enginery.errors import (
    EngineCrashed,
    EngineStartFailed,
    EngineTimeout,
)
from enginery.lifecycle import State
from enginery.values import Variant

__all__ = ["LIMITS", "LOAD", "MODELS", "STOP", "World"]

MODELS = {name: Variant(model=name, engine_type="mock") for name in "abcd"}
LIMITS = SchedulingLimits(max_wait=30.0, min_residency=5.0, drain_timeout=60.0, max_queue=8)
LOAD, STOP = 20.0, 10.0


class World:
    """Carries out actions in simulated time and checks every rule that has no exception."""

    def __init__(
        self, limits: SchedulingLimits = LIMITS, traits: dict[str, Traits] | None = None
    ) -> None:
        self.traits = traits or {}
        self.scheduler = EngineScheduler(limits, lambda v: self.traits.get(v.model, Traits()))
        self.limits = limits
        self.asleep: set[str] = set()
        self.naps: list[str] = []
        self.now = 0.0
        self.load_takes, self.stop_takes = 2.0, 0.5
        self.load_fails = False
        self.is_stuck = False
        self.ids = count(1)
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.wake: float | None = None
        self.processes: dict[str, int] = {}  # instances that take memory -> generation
        self.ready: set[tuple[str, int]] = set()
        self.requests: dict[int, QueuedRequest] = {}
        self.bounds: dict[int, float] = {}
        self.answers: dict[int, Grant | Reject] = {}
        self.cancelled: set[int] = set()
        self.open: dict[int, Grant] = {}
        self.evicted: dict[int, Evict] = {}
        self.unloaded: dict[int, Unloaded] = {}
        self.asked_to_unload: list[int] = []
        self.log: list[Action] = []
        self.bounded = True

    # -- driving ---------------------------------------------------------------------------

    def tell(self, event: Event) -> list[Action]:
        actions = self.scheduler.handle(event, self.now)
        for action in actions:
            self.carry_out(action)
        self.log += actions
        return actions

    def at(self, delay: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.due, (self.now + delay, next(self.order), call))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            times = [t for t in (self.wake, self.due[0][0] if self.due else None) if t is not None]
            if not times or min(times) > until:
                break
            self.now = max(self.now, min(times))
            if self.due and self.due[0][0] <= self.now:
                heapq.heappop(self.due)[2]()
            else:
                self.wake = None
                self.tell(Tick())
        self.now = until

    def ask(
        self,
        model: str,
        *,
        priority: int = 0,
        patience: float = 1e6,
        others: str = "",
        asked: bool = False,
    ) -> int:
        request_id = next(self.ids)
        variants = tuple(MODELS[name] for name in (model, *others))
        request = QueuedRequest(
            request_id, variants, self.now, self.now + patience, priority, asked=asked
        )
        self.requests[request_id] = request
        older = {r.candidates[0].model for r in self.waiting()} - {model}
        turn = self.limits.min_residency + self.limits.drain_timeout + STOP + LOAD
        self.bounds[request_id] = self.limits.max_wait + (len(older) + 2) * turn
        taken = self.scheduler.try_acquire(variants, self.now)
        if taken is not None:
            self.carry_out(Grant(request, *taken))
        else:
            self.tell(Requested(request))
        return request_id

    def release(self, request_id: int, outcome: Outcome = Outcome.OK) -> None:
        grant = self.open.pop(request_id)
        self.tell(Released(grant.lease_id, outcome))

    def cancel(self, request_id: int) -> None:
        self.cancelled.add(request_id)
        self.tell(Cancelled(request_id))

    def crash(self) -> None:
        instance, generation = next(iter(self.ready))
        self.ready.discard((instance, generation))
        del self.processes[instance]
        self.tell(Exited(instance, generation, EngineCrashed(f"{instance} ended")))

    def waiting(self) -> list[QueuedRequest]:
        gone = self.answers.keys() | self.cancelled
        return [request for id_, request in self.requests.items() if id_ not in gone]

    # -- the world's answers ---------------------------------------------------------------

    def carry_out(self, action: Action) -> None:
        match action:
            case Start(_, instance, generation):
                self.processes[instance] = generation
                self.check_room()
                self.at(self.load_takes, lambda: self.loaded(instance, generation, self.load_fails))
            case Stop(instance, generation):
                assert self.processes.get(instance) == generation, "stop of what does not run"
                self.ready.discard((instance, generation))
                self.at(self.stop_takes, lambda: self.stopped(instance, generation))
            case Sleep(instance, generation):
                self.ready.discard((instance, generation))
                self.naps.append(instance)
                self.at(0.2, lambda: self.napped(instance, generation))
            case Wake(instance, generation):
                self.asleep.discard(instance)
                self.check_room()
                self.at(0.3, lambda: self.woke(instance, generation))
            case Examine(instance, generation):
                self.at(0.4, lambda: self.examined(instance, generation))
            case Grant(request):
                assert action.instance not in self.suspects(), "lease on what is suspect"
                self.answer(request.id, action)
                assert (action.instance, action.generation) in self.ready, (
                    "lease on what is not ready"
                )
                assert action.instance in {v.id for v in request.candidates}
                self.open[request.id] = action
            case Reject(request):
                self.answer(request.id, action)
            case Evict(lease_id):
                (request_id,) = [i for i, g in self.open.items() if g.lease_id == lease_id]
                self.evicted[request_id] = action
                self.open.pop(request_id)
                self.at(0.1, lambda: self.tell(Released(lease_id, Outcome.EVICTED)) and None)
            case Unloaded(request_id):
                assert request_id not in self.unloaded, "answered twice"
                self.unloaded[request_id] = action
            case WakeMeAt(when):
                assert when is None or when > self.now, "asks to be woken in the past"
                self.wake = when

    def answer(self, request_id: int, action: Grant | Reject) -> None:
        assert request_id not in self.answers, "answered twice"
        assert request_id not in self.cancelled, "answered after it left"
        self.answers[request_id] = action
        waited = self.now - self.requests[request_id].arrived
        if self.bounded:
            assert waited <= self.bounds[request_id] + 1e-6, f"waited {waited} s"

    def loaded(self, instance: str, generation: int, fails: bool) -> None:
        if self.processes.get(instance) != generation or self.is_stopping(instance):
            return
        if fails:
            del self.processes[instance]
            self.tell(Failed(instance, generation, EngineStartFailed("no such file")))
        else:
            self.ready.add((instance, generation))
            self.tell(Ready(instance, generation))

    def napped(self, instance: str, generation: int) -> None:
        if self.processes.get(instance) == generation and not self.is_stopping(instance):
            self.asleep.add(instance)
            self.tell(Slept(instance, generation))

    def woke(self, instance: str, generation: int) -> None:
        if self.processes.get(instance) == generation and not self.is_stopping(instance):
            self.ready.add((instance, generation))
            self.tell(Woke(instance, generation))

    def examined(self, instance: str, generation: int) -> None:
        if self.processes.get(instance) != generation or self.is_stopping(instance):
            return
        if self.is_stuck:
            error = EngineTimeout(f"{instance} did not generate one token")
            self.tell(Condemned(instance, generation, error))
        else:
            self.tell(Cleared(instance, generation))

    def suspects(self) -> set[str]:
        return {view.variant.id for view in self.scheduler.instances() if view.suspect}

    def check_room(self) -> None:
        """Nobody is started or woken where there is no room."""
        awake = [name.partition("/")[0] for name in self.processes if name not in self.asleep]
        if self.limits.budget is None:
            assert len(awake) == 1, f"{awake} at once"
            return
        memories = [self.traits.get(model, Traits()).memory for model in awake]
        if None in memories:
            assert len(self.processes) == 1, f"{awake} beside one of unknown size"
            return
        sleeping = [self.traits[name.partition("/")[0]].memory.asleep for name in self.asleep]
        for device, limit in self.limits.budget.items():
            used = sum(memory.ready.get(device, 0) for memory in memories)
            used += sum(memory.get(device, 0) for memory in sleeping)
            assert used <= limit, f"{used} of {limit} on {device}: {self.processes}"

    def stopped(self, instance: str, generation: int) -> None:
        self.asleep.discard(instance)
        del self.processes[instance]
        self.tell(Stopped(instance, generation))

    def is_stopping(self, instance: str) -> bool:
        return self.state(instance) is State.STOPPING

    def state(self, instance: str) -> State:
        views = {view.variant.id: view.state for view in self.scheduler.instances()}
        return views.get(instance, State.STOPPED)
