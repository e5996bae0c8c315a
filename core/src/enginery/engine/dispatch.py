"""`Dispatcher`: the scheduler's mouth and hands.

Knows: which coroutine waits for which request, which instance object performs which start, the one
timer. Feeds every event to the scheduler in one synchronous call and carries out what it answers.
Decides nothing; does not know models, settings or routing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

from enginery.engine.client import PluginEngineClient
from enginery.engine.clock import Clock, Timer
from enginery.engine.events import EventHub
from enginery.engine.instance import EngineInstance
from enginery.engine.lease import Lease
from enginery.engine.seam import (
    Action,
    Cancelled,
    Event,
    Evict,
    Examine,
    Grant,
    InstanceView,
    Moved,
    Outcome,
    Probe,
    QueuedRequest,
    Reconfigured,
    Reject,
    Released,
    Requested,
    Scheduler,
    ShutdownAsked,
    Sleep,
    Start,
    Stop,
    Taken,
    Tick,
    UnloadAsked,
    Unloaded,
    Wake,
    WakeMeAt,
)
from enginery.engine.swaps import SwapWatch
from enginery.errors import EngineBusy, EngineEvicted, EngineryError, ShuttingDown
from enginery.lifecycle import STATES, State
from enginery.values import Variant

__all__ = ["Dispatcher"]

log = logging.getLogger("enginery.manager")


class Dispatcher:
    """One scheduler and everything it commands, on one event loop.

    Args:
        scheduler: decides.
        clock: seconds.
        hub: gets every event worth telling.
        new_instance: makes the object that performs one start; gets the variant, the generation and
            where to report.
        new_client: makes the client for an instance that is ready; gets the instance and how a client
            that was given out takes a lease again.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Clock,
        hub: EventHub,
        *,
        new_instance: Callable[[Variant, int, Callable[[Event], None]], EngineInstance],
        new_client: Callable[[EngineInstance], PluginEngineClient],
    ) -> None:
        self.scheduler = scheduler
        self.clock = clock
        self.instances: dict[str, EngineInstance] = {}
        self.last_granted: str | None = None
        self.closing = False
        self.closed = False
        self._hub = hub
        self._new_instance = new_instance
        self._new_client = new_client
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[Lease]] = {}
        self._unloading: dict[int, asyncio.Future[None]] = {}
        self._leases: dict[int, Lease] = {}
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._waits_for: dict[int, str] = {}
        self._swaps = SwapWatch()
        self._entered: dict[str, float] = {}
        self._timer: Timer | None = None
        self._changed = asyncio.Event()
        self._on_release = self._released
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- asking --------------------------------------------------------------------------------

    async def lease(
        self,
        candidates: tuple[Variant, ...],
        *,
        priority: int,
        queue_timeout: float,
        asked: bool = False,
    ) -> Lease:
        """Queue for one of ``candidates``; whatever cancels this leaves nothing behind.

        ``asked``: by name, so that the back-off after a failure does not hold it up.

        Raises:
            EngineryError: the scheduler's, when it rejects the request.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            raise RuntimeError(
                "this EngineManager belongs to another event loop; make one for each loop, and shut "
                "it down on its own"
            )
        self._loop = loop
        now = self.clock.now()
        request = QueuedRequest(
            next(self._ids), candidates, now, now + queue_timeout, priority, asked=asked
        )
        taken = self.scheduler.try_acquire(candidates, now)
        if taken is not None:
            return self._held(request.id, taken)
        answer: asyncio.Future[Lease] = loop.create_future()
        self._waiting[request.id] = answer
        self._waits_for[request.id] = candidates[0].model
        self._publish("request.queued", candidates[0], request=request.id)
        self.tell(Requested(request))
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().release(
                    Outcome.CLIENT_GONE
                )  # granted in the tick that cancelled us
            self._publish("request.cancelled", candidates[0], request=request.id)
            raise
        finally:
            self._waiting.pop(request.id, None)
            self._waits_for.pop(request.id, None)
            if answer.cancelled() or not answer.done():
                self.tell(Cancelled(request.id))

    def try_lease(self, candidates: tuple[Variant, ...]) -> Lease | None:
        """A lease on one of ``candidates`` if it can be had at once: no queue, no task, no waiting."""
        taken = self.scheduler.try_acquire(candidates, self.clock.now())
        return None if taken is None else self._held(next(self._ids), taken)

    def lease_now(self, variant: Variant) -> Lease:
        """For a client that was given out: its engine's lease, but never a load.

        Raises:
            EngineEvicted: the engine is not there any more.
            EngineCrashed: it ended by itself.
            EngineBusy: it fell silent, and is asked for a token before anybody else may have it.
        """
        taken = self.scheduler.try_acquire((variant,), self.clock.now())
        if taken is not None:
            return self._held(next(self._ids), taken)
        known = self.failure(variant)
        if known is not None:
            raise known
        if any(v.suspect and v.variant.id == variant.id for v in self.scheduler.instances()):
            raise EngineBusy(f"{variant.id} fell silent and is being examined", retry_after=1.0)
        raise EngineEvicted(
            f"{variant.id} is not loaded any more: call ensure_engine again", retry_after=1.0
        )

    def waiting(self) -> Counter[str]:
        """How many requests wait for a lease, by model."""
        return Counter(self._waits_for.values())

    def failure(self, variant: Variant) -> EngineryError | None:
        """Why ``variant`` is down, when it failed or is out of reach."""
        down = {State.FAILED, State.UNREACHABLE}
        for view in self.scheduler.instances():
            if view.variant.id == variant.id and view.state in down and view.error:
                return view.error.again()
        return None

    def serving(self, variant: Variant) -> EngineInstance | None:
        """The instance of ``variant`` while it serves (or drains), else None."""
        for view in self.scheduler.instances():
            if view.variant.id == variant.id and view.state in {State.READY, State.DRAINING}:
                return self.instances[variant.id]
        return None

    async def unload(self, instances: tuple[str, ...], *, drain: bool) -> None:
        """Returns when none of ``instances`` is left; raises `EngineLeaked` when one will not go."""
        request_id = next(self._ids)
        done = self._unloading[request_id] = asyncio.get_running_loop().create_future()
        self.tell(UnloadAsked(request_id, instances, drain))
        await asyncio.shield(done)

    def reconfigure(self, event: Reconfigured) -> None:
        """Other settings are in force; see `reconfiguration`."""
        self.tell(event)
        for view in self.scheduler.instances():
            if view.variant.id in self.instances:
                self.instances[view.variant.id].variant = view.variant

    async def shut_down(self, grace: float, patience: float) -> list[InstanceView]:
        """Refuse, drain for ``grace`` seconds, stop all; give up after ``patience`` seconds.

        Returns what is left: engines that would not die, and those whose end was given up.
        """
        self.closing = True
        self.tell(ShutdownAsked(grace))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while any(_must_go(view) for view in self.scheduler.instances()):
                    self._changed.clear()
                    await self._changed.wait()
                await asyncio.gather(*(self.instances[v.variant.id].ended() for v in self._ended()))
        if self._timer is not None:
            self._timer.cancel()
        unanswered: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._unloading.values()]
        for future in unanswered:
            if not future.done():
                future.set_exception(ShuttingDown("the manager is shut down"))
        self.closed = True
        return [view for view in self.scheduler.instances() if STATES[view.state].resident]

    def _ended(self) -> list[InstanceView]:
        views = self.scheduler.instances()
        return [v for v in views if v.state is not State.LEAKED and v.variant.id in self.instances]

    # -- telling and carrying out --------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """One event, and everything that follows from it; events that follow wait their turn."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                for action in self.scheduler.handle(self._inbox.popleft(), self.clock.now()):
                    try:
                        self._carry_out(action)
                    except Exception:  # one action's defect must not take the others along
                        log.exception("a defect in carrying out %r", action)
        finally:
            self._handling = False
        self._changed.set()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start() | Stop() | Sleep() | Wake() | Probe() | Examine():
                self._order(action)
            case Grant(request):
                answer = self._waiting.get(request.id)
                taken = action.lease_id, action.instance, action.generation
                lease = self._held(request.id, taken, action.queue_s, action.swap_s)
                if answer is None or answer.done():
                    lease.release(Outcome.CLIENT_GONE)
                else:
                    answer.set_result(lease)
            case Reject(request, error):
                variant = request.candidates[0]
                self._publish("request.failed", variant, request=request.id, code=error.code)
                answer = self._waiting.get(request.id)
                if answer is not None and not answer.done():
                    answer.set_exception(error.again())
            case Evict(lease_id, error):
                held = self._leases.pop(lease_id, None)
                if held is not None:
                    held.evict(error.again())
            case Unloaded(request_id, error):
                done = self._unloading.pop(request_id, None)
                if done is not None and not done.done():
                    done.set_result(None) if error is None else done.set_exception(error)
            case Moved():
                self._moved(action)
            case WakeMeAt(when):
                if self._timer is not None:
                    self._timer.cancel()
                tick = partial(self.tell, Tick())
                self._timer = None if when is None else self.clock.call_at(when, tick)

    def _order(self, order: Start | Stop | Sleep | Wake | Probe | Examine) -> None:
        if isinstance(order, Start):
            new = self._new_instance(order.variant, order.generation, self.tell)
            self.instances[order.instance] = new
        instance = self.instances[order.instance]
        match order:
            case Start():
                instance.start()
            case Stop():
                instance.stop()
            case Sleep(level=level):
                instance.sleep(level)
            case Wake():
                instance.wake()
            case Probe():
                instance.probe()
            case Examine():
                instance.examine()

    def _held(
        self, request_id: int, taken: Taken, queue_s: float = 0.0, swap_s: float = 0.0
    ) -> Lease:
        instance = self.instances[taken[1]]
        lease = Lease(
            request_id, taken, instance, self._new_client, self._on_release, queue_s, swap_s
        )
        self._leases[taken[0]] = lease
        self.last_granted = taken[1]
        if self._hub.listening:
            waited = {"queue_s": queue_s, "swap_s": swap_s}
            self._publish("request.granted", instance.variant, request=request_id, **waited)
        return lease

    def _released(self, lease: Lease, outcome: Outcome) -> None:
        self._leases.pop(lease.id, None)
        if self._hub.listening and not lease.reported:
            self._publish(
                "request.finished", lease.variant, request=lease.request_id, outcome=str(outcome)
            )
        if not self.scheduler.try_release(lease.id, outcome, self.clock.now()):
            self.tell(Released(lease.id, outcome))

    def _moved(self, moved: Moved) -> None:
        before, state = str(moved.before), str(moved.after)
        name, now = moved.variant.id, self.clock.now()
        lasted = now - self._entered.get(name, now)
        self._entered[name] = now
        instance = self.instances.get(name)
        settled = 0.0 if instance is None or moved.after is not State.STOPPED else instance.settle_s
        self._publish(
            "instance.state",
            moved.variant,
            before=before,
            state=state,
            reason=moved.reason,
            seconds=lasted,
            settle_s=settled,
        )
        for news in self._swaps.moved(moved, now):
            self._hub.publish(news.type, news.model, news.variant, **news.data)
        why = f" ({moved.reason})" if moved.reason else ""
        log.info("%s: %s → %s%s", moved.variant.id, before, state, why)

    def _publish(self, type_: str, variant: Variant | None, **data: Any) -> None:
        model, name = (None, None) if variant is None else (variant.model, variant.id)
        self._hub.publish(type_, model, name, **data)


def _must_go(view: InstanceView) -> bool:
    return STATES[view.state].resident and view.state is not State.LEAKED
