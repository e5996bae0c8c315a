"""`EngineInstance`: carries out one start, and the stop, of one variant; and reports what happens.

Knows: the order of things (reserve, command, launch, wait, watch, stop). Decides nothing: every
outcome goes to ``report`` as an event with this start's generation, and the scheduler decides. One
object is one generation.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from enginery.engine.clock import Clock
from enginery.engine.command import command_for
from enginery.engine.examination import examine
from enginery.engine.last_words import last_words
from enginery.engine.launchers import EngineHandle, Launcher
from enginery.engine.logs import KEPT_LINES
from enginery.engine.ownership import Whose, whose_server
from enginery.engine.readiness import wait_until_ready
from enginery.engine.seam import (
    Cleared,
    Condemned,
    Event,
    Exited,
    Failed,
    MemoryMeasured,
    Ready,
    SleepFailed,
    Slept,
    StopFailed,
    Stopped,
    Woke,
)
from enginery.engine.transport import HttpTransport
from enginery.errors import (
    EngineCrashed,
    EngineError,
    EngineLeaked,
    EngineryError,
    EngineStartFailed,
    EngineTimeout,
)
from enginery.plugins import EngineHooks
from enginery.values import Command, Endpoint, Health, RunningEngine, StopPlan, Variant

__all__ = ["EngineInstance", "LoadLimits"]

PORT_TRIES = 5
SHOWN_LINES = 20
SETTLE, SETTLE_LOOK, ENOUGH = 5.0, 0.05, 0.9

_FAILURES = (Failed, Exited, Condemned, SleepFailed, StopFailed)
"""What is no end that somebody asked for."""

log = logging.getLogger("enginery.engine")


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Seconds: without progress while loading, loading in all, the stop plan's waits in sum, one token."""

    load_stall: float = 60.0
    load_cap: float = 1800.0
    stop_timeout: float = 15.0
    examination: float = 30.0


class _PortTaken(EngineStartFailed):
    """Somebody else listens where our engine was to."""


class EngineInstance:
    """One start of one variant.

    Args:
        variant: what to run.
        generation: which start of it this is.
        hooks: its plugin's.
        launcher: the machine.
        transport: for health checks.
        clock: seconds.
        limits: deadlines.
        report: gets everything that happens to it, as the scheduler's events.
        on_progress: gets health reports while loading.
        restarts: how many starts of it, this one among them, followed a failure of the one before.
    """

    def __init__(
        self,
        variant: Variant,
        generation: int,
        hooks: EngineHooks,
        launcher: Launcher,
        *,
        transport: HttpTransport,
        clock: Clock,
        limits: LoadLimits,
        report: Callable[[Event], None],
        on_progress: Callable[[Health], None] = lambda _: None,
        restarts: int = 0,
    ) -> None:
        self.variant = variant
        self.generation = generation
        self.hooks = hooks
        self.endpoint: Endpoint | None = None
        self.command: Command | None = None
        self.handle: EngineHandle | None = None
        self.started_at: float | None = None
        """When its process was launched, in seconds since the epoch."""
        self.restarts = restarts
        self.failed = False
        """It did not start, ended by itself, or was found unwell: the next start is a restart."""
        self.settle_s = 0.0
        """Seconds for which its memory was waited for, after its end."""
        self._launcher = launcher
        self._transport = transport
        self._clock = clock
        self._limits = limits
        self._tell = report
        self._on_progress = on_progress
        self._free_before: Mapping[str, int] = {}
        self._free_ready: Mapping[str, int] = {}
        self._taken: Mapping[str, int] = {}
        self._cause: re.Pattern[str] | None = None
        self._life: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._stopper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The engine's pid, once it was launched."""
        return None if self.handle is None else self.handle.pid

    def log_tail(self, n: int = SHOWN_LINES) -> list[str]:
        """The engine's last ``n`` lines."""
        return [] if self.handle is None else self.handle.log_tail(n)

    def _report(self, event: Event) -> None:
        self.failed = self.failed or isinstance(event, _FAILURES)
        self._tell(event)

    def start(self) -> None:
        """Begin; `Ready` or `Failed` follows, later perhaps `Exited`."""
        loop = asyncio.get_running_loop()
        self._life = loop.create_task(self._live(), name=f"engine {self.variant.id}")
        self._life.add_done_callback(self._last_word)

    def _last_word(self, life: asyncio.Task[None]) -> None:
        """A hook that cancels the task it runs in must not leave everybody waiting."""
        if life.cancelled() and self._stopper is None:
            self.stop()
            error = EngineStartFailed(f"{self.variant.id}: its start was cancelled from within")
            self._report(Failed(self.variant.id, self.generation, error))

    def stop(self) -> None:
        """Begin to stop, also in the middle of a start; `Stopped` or `StopFailed` follows."""
        if self._stopper is None:
            self._stopper = asyncio.get_running_loop().create_task(
                self._end(), name=f"stop {self.variant.id}"
            )

    def probe(self) -> None:
        """Nothing to do: the end of a process is seen without asking. See `AttachedInstance`."""

    def sleep(self, level: int) -> None:
        """Begin to give memory back; `Slept` or `SleepFailed` follows."""
        done = Slept(self.variant.id, self.generation)
        self._run(lambda engine: self.hooks.sleep(engine, level), done, SleepFailed)

    def wake(self) -> None:
        """Begin to take memory again; `Woke` or `SleepFailed` follows."""
        self._run(self.hooks.wake_up, Woke(self.variant.id, self.generation), SleepFailed)

    def examine(self) -> None:
        """Have it generate one token; `Cleared` or `Condemned` follows."""
        patience, done = self._limits.examination, Cleared(self.variant.id, self.generation)
        self._run(
            lambda engine: examine(self.hooks, engine, patience, self._clock), done, Condemned
        )

    def _run(
        self,
        call: Callable[[RunningEngine], Awaitable[None]],
        done: Event,
        failed: type[SleepFailed | Condemned],
    ) -> None:
        async def run() -> None:
            try:
                await call(self._running())
            except EngineryError as error:
                self._report(failed(self.variant.id, self.generation, error))
            else:
                self._report(done)

        loop = asyncio.get_running_loop()
        errand = loop.create_task(run(), name=f"errand {self.variant.id}")
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    def _running(self) -> RunningEngine:
        """What hooks that do I/O get."""
        assert self.endpoint is not None
        assert self.command is not None
        fetch = self._transport.to(self.endpoint)
        path = self.command.health_path
        return RunningEngine(self.variant, self.endpoint, self.pid, fetch, path)

    async def ended(self) -> None:
        """Returns when no task of this instance is left."""
        tasks = [task for task in (self._life, self._stopper, *self._errands) if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    # -- a life --------------------------------------------------------------------------------

    async def _live(self) -> None:
        name = self.variant.id
        try:
            handle = await self._bring_up()
        except EngineLeaked as error:
            self._report(StopFailed(name, self.generation, error))
            await self._watch_leaked()
            return
        except EngineryError as error:
            self._report(Failed(name, self.generation, error))
            return
        except Exception as error:
            log.exception("%s: a defect in starting it", name)
            self._report(Failed(name, self.generation, EngineStartFailed(f"{name}: {error!r}")))
            return
        self._report(Ready(name, self.generation))
        await self._measure(handle)
        status = await handle.exited()
        try:
            # what it left behind, processes and memory, must be gone before the next start
            await handle.stop(StopPlan(()))
            await self._settle(self._free_ready)
        except EngineLeaked as leaked:
            self._report(StopFailed(name, self.generation, leaked))
            await self._watch_leaked()
            return
        crash = EngineCrashed(f"{name} ended: {status}", log_tail=self._last_words(handle))
        self._report(Exited(name, self.generation, crash))

    async def _bring_up(self) -> EngineHandle:
        """Start and wait until ready, again on another port when somebody took ours."""
        for _ in range(PORT_TRIES):
            try:
                return await self._try()
            except _PortTaken as error:
                taken = error
                if self.variant.url is not None:
                    break  # the port is the user's choice
                log.warning("%s: %s; trying another port", self.variant.id, error.message)
        raise taken

    async def _try(self) -> EngineHandle:
        """One start on one port; nothing of it is left when this raises, but for `EngineLeaked`."""
        endpoint = await self._launcher.reserve(self.variant)
        command = command_for(self.hooks, self.variant, endpoint)
        hint = asyncio.Event()
        pattern = None if command.ready_hint is None else re.compile(command.ready_hint)
        self._cause = None if command.cause_hint is None else re.compile(command.cause_hint)

        def on_line(line: str) -> None:
            if pattern is not None and pattern.search(line):
                hint.set()

        self.endpoint, self.command = endpoint, command
        self.handle = None
        self._free_before = await self._launcher.free_memory()
        try:
            handle = await self._launcher.launch(command, endpoint, self.variant.id, on_line)
        except EngineStartFailed as error:
            raise EngineStartFailed(f"{self.variant.id}: {error.message}") from error
        self.handle = handle
        self.started_at = time.time()
        try:
            await self._until_ready(handle, endpoint, command, hint)
        except Exception:
            await handle.stop(command.stop_plan.capped(self._limits.stop_timeout))
            raise
        return handle  # when cancelled instead, `_end` stops the handle

    async def _until_ready(
        self, handle: EngineHandle, endpoint: Endpoint, command: Command, hint: asyncio.Event
    ) -> None:
        """Race readiness against the engine's end."""
        engine = self._running()
        exited = asyncio.ensure_future(handle.exited())
        ready = asyncio.ensure_future(
            wait_until_ready(
                lambda: self._look_at_ours(engine, handle, command),
                clock=self._clock,
                hint=hint,
                signs_of_life=handle.activity,
                stall=self._limits.load_stall,
                cap=self._limits.load_cap,
                on_progress=self._on_progress,
            )
        )
        try:
            await asyncio.wait({exited, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                return
            # it may have failed because somebody else has its port: then another port helps
            if await self._whose(handle, endpoint, command) is Whose.STRANGERS:
                raise _PortTaken(f"{endpoint.address} is served by another program")
            if exited.done():
                raise EngineStartFailed(
                    f"{self.variant.id} ended before it was ready: {exited.result()}",
                    log_tail=self._last_words(handle),
                )
            ready.result()
        except (EngineTimeout, EngineStartFailed) as error:
            if error.log_tail or isinstance(error, _PortTaken):
                raise
            raise type(error)(
                f"{self.variant.id}: {error.message}", log_tail=self._last_words(handle)
            ) from error
        finally:
            for task in (exited, ready):
                task.cancel()
            await asyncio.gather(exited, ready, return_exceptions=True)

    def _last_words(self, handle: EngineHandle) -> list[str]:
        return last_words(handle.log_tail(KEPT_LINES), SHOWN_LINES, self._cause)

    async def _look_at_ours(
        self, engine: RunningEngine, handle: EngineHandle, command: Command
    ) -> Health:
        """As `_look`; a stranger's good health is no proof.

        Raises:
            _PortTaken: a stranger it is.
        """
        health = await self._look(engine)
        if health.state != "ready":
            return health
        address = engine.endpoint.address
        match await self._whose(handle, engine.endpoint, command):
            case Whose.STRANGERS:
                raise _PortTaken(f"{address} is served by another program")
            case Whose.UNKNOWN:
                return Health("starting", detail="not known yet whose server answers")
            case Whose.UNPROVEN:
                log.warning(
                    "%s: nothing proves that the server at %s is the one that was started: its health "
                    "has to do",
                    self.variant.id,
                    address,
                )
        return health

    async def _whose(self, handle: EngineHandle, endpoint: Endpoint, command: Command) -> Whose:
        return await whose_server(handle, self.variant, command, endpoint, self._transport)

    async def _look(self, engine: RunningEngine) -> Health:
        """One health check; a check that fails says that the engine is not ready yet."""
        try:
            return await self.hooks.check_health(engine)
        except EngineError as error:
            return Health("starting", detail=error.message)

    # -- its end -------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Whatever it was doing, stop it."""
        for task in (self._life, *self._errands):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        name = self.variant.id
        if self.handle is not None and self.command is not None:
            free = await self._launcher.free_memory() if self._taken else {}
            try:
                await self.handle.stop(self.command.stop_plan.capped(self._limits.stop_timeout))
            except EngineLeaked as error:
                self._report(StopFailed(name, self.generation, error))
                await self._watch_leaked()
                return
            await self._settle(free)
        self._report(Stopped(name, self.generation))

    # -- its memory ----------------------------------------------------------------------------

    async def _measure(self, handle: EngineHandle) -> None:
        """What it holds, for the scheduler; what it took, to know later when that is back."""
        free = await self._launcher.free_memory()
        self._free_ready = free
        gone = {
            device: max(0, before - free[device])
            for device, before in self._free_before.items()
            if device != "ram" and device in free
        }
        self._taken = {device: size for device, size in gone.items() if size}
        held = handle.memory()
        if held or gone:
            self._report(MemoryMeasured(self.variant.id, self.generation, held, gone))

    async def _settle(self, held: Mapping[str, int]) -> None:
        """Wait until devices have their memory back: drivers need up to seconds after the exit.

        RAM is back with the exit itself. At most `SETTLE` seconds, whatever is missing then.

        Args:
            held: what was free while this engine still had its memory.
        """
        if not self._taken:
            return
        began = self._clock.now()
        while self._clock.now() - began < SETTLE:
            free = await self._launcher.free_memory()
            back = {
                device: free.get(device, 0) >= held.get(device, 0) + ENOUGH * taken
                for device, taken in self._taken.items()
            }
            self.settle_s = self._clock.now() - began
            if all(back.values()):
                return
            await self._clock.sleep(SETTLE_LOOK)
        log.warning("%s: %s is not back after %g s", self.variant.id, dict(self._taken), SETTLE)

    async def _watch_leaked(self) -> None:
        """Even a process stuck in the kernel may end one day."""
        if self.handle is not None:
            await self.handle.gone()
        self._report(Stopped(self.variant.id, self.generation))
