"""`InprocClient`: an engine core in this process, for tests, notebooks and batch work.

Knows: who may step the core, and how the async half keeps it off the event loop. Does not know: how a backend works.
Nothing runs by itself: `get_output` steps until there is something, and so does a call that waits for running requests.
Adding and aborting only leave a note for whoever steps next, so they never wait for a step, and what the core thinks of
a request arrives as its output, as from a process.
"""

from __future__ import annotations

import asyncio
import math
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from enginery.enginecore.client import EngineCoreClient, ShutdownMode, patience
from enginery.enginecore.config import ClientConfig, load_backend
from enginery.enginecore.ledger import RequestLedger
from enginery.enginecore.loop import EngineCore
from enginery.enginecore.messages import Capabilities, EngineCoreOutputs, EngineCoreRequest
from enginery.errors import EngineClosedError, EngineTimeout
from enginery.threads import in_daemon_thread

__all__ = ["InprocClient"]

IDLE = 0.001
"""Seconds from one step to the next when the first gave nothing, though there is work: as in `process`."""


class InprocClient(EngineCoreClient):
    """A core in this process; every method may be called from any thread, and awaited on any loop.

    Args:
        config: which backend; its ``backend`` may be a callable here.
        engine_core: a core that was made already, instead; owned from now on.

    Raises `ConfigError`, and what the backend's factory raises.
    """

    has_sync: ClassVar[bool] = True
    has_async: ClassVar[bool] = True

    def __init__(
        self, config: ClientConfig | None = None, engine_core: EngineCore | None = None
    ) -> None:
        self.config = config or ClientConfig()
        if engine_core is None:
            engine_core = EngineCore(load_backend(self.config), log_stats=self.config.log_stats)
        self._core = engine_core
        self._ledger = RequestLedger()
        self._ledger.capabilities = engine_core.capabilities
        self._notes: deque[EngineCoreRequest | list[str]] = deque()
        self._stepping = threading.Lock()  # the core is his who holds it
        self._news = threading.Condition(threading.Lock())  # for the ledger; held for moments only
        self._finalizer = weakref.finalize(self, engine_core.shutdown)

    @property
    def capabilities(self) -> Capabilities:
        """What the core can do."""
        return self._core.capabilities

    @property
    def unfinished(self) -> int:
        """Requests whose last output was not read yet."""
        return self._ledger.unfinished

    # -- requests ------------------------------------------------------------------------------

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs:
        """See `EngineCoreClient.get_output`."""
        while (batch := self._take()) is None:
            self._run(lambda: bool(self._ledger.unread), timeout, "no output", _Stop())
        return batch

    async def get_output_async(self, timeout: float | None = None) -> EngineCoreOutputs:
        """See `EngineCoreClient.get_output`."""
        while (batch := self._take()) is None:
            await self._in_thread(lambda: bool(self._ledger.unread), timeout, "no output")
        return batch

    def add_request(self, request: EngineCoreRequest) -> str:
        """See `EngineCoreClient.add_request`."""
        with self._news:
            self._ledger.admit(request)
            self._notes.append(request)
            self._news.notify_all()
        return request.request_id

    async def add_request_async(self, request: EngineCoreRequest) -> str:
        """See `EngineCoreClient.add_request`."""
        return self.add_request(request)

    def abort_requests(self, request_ids: Sequence[str]) -> list[str]:
        """See `EngineCoreClient.abort_requests`."""
        with self._news:
            ended = self._ledger.abort(request_ids)
            if ended:
                self._notes.append(ended)
                self._news.notify_all()
        return ended

    async def abort_requests_async(self, request_ids: Sequence[str]) -> list[str]:
        """See `EngineCoreClient.abort_requests`."""
        return self.abort_requests(request_ids)

    def call_utility(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """See `EngineCoreClient.call_utility`. Waits for a step of another thread."""
        call = _Call()
        self._begin(method, dict(args or {}), call, timeout)
        self._run(call.is_answered, timeout, f"no answer to {method}", _Stop())
        return self._answer(call)

    async def call_utility_async(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """See `EngineCoreClient.call_utility`."""
        call, given = _Call(), dict(args or {})
        begin = lambda: self._begin(method, given, call, timeout)  # noqa: E731  # named for its reader
        await in_daemon_thread(begin, "enginery-core-call")
        if not call.is_answered():
            await self._in_thread(call.is_answered, timeout, f"no answer to {method}")
        return self._answer(call)

    def _begin(self, method: str, args: dict[str, Any], call: _Call, timeout: float | None) -> None:
        with self._news:
            self._ledger.check()
        seconds = self._seconds(timeout)
        if not self._stepping.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise EngineTimeout(f"no answer to {method} within {seconds:g} s")
        try:
            self._read_notes()
            self._core.utility(method, args, call.reply)
        finally:
            self._stepping.release()

    def _answer(self, call: _Call) -> Any:
        if not call.is_answered():
            self._ledger.check()
        if call.error is not None:
            raise call.error
        return call.value

    # -- the end -------------------------------------------------------------------------------

    def shutdown(self, timeout: float | None = None, mode: ShutdownMode = "abort") -> None:
        """See `EngineCoreClient.shutdown`. A step that never ends keeps its thread, and the backend."""
        if self._ledger.over is not None:
            return
        wait = min(patience(mode, timeout), threading.TIMEOUT_MAX)
        mine = self._stepping.acquire(timeout=wait)
        try:
            if mine:
                self._end(timeout, mode)
        finally:
            if mine:
                self._stepping.release()
            with self._news:
                self._ledger.end(EngineClosedError("the client is shut down"))
                self._news.notify_all()
            self._finalizer.detach()

    async def shutdown_async(
        self, timeout: float | None = None, mode: ShutdownMode = "abort"
    ) -> None:
        """See `EngineCoreClient.shutdown`."""
        await in_daemon_thread(lambda: self.shutdown(timeout, mode), "enginery-core-shutdown")

    def _end(self, timeout: float | None, mode: ShutdownMode) -> None:
        core = self._core
        self._read_notes()
        if mode == "drain":
            core.drain()
            deadline = time.monotonic() + (math.inf if timeout is None else timeout)
            while core.has_work() and time.monotonic() < deadline:
                self._step(deadline)
        last = core.shutdown()
        with self._news:
            self._ledger.put(last)

    # -- stepping ------------------------------------------------------------------------------

    def _take(self) -> EngineCoreOutputs | None:
        with self._news:
            return self._ledger.take()

    def _run(self, done: Callable[[], bool], timeout: float | None, what: str, stop: _Stop) -> None:
        """Step until ``done()``, or all is over, or ``stop`` is set; raise EngineTimeout at the deadline."""
        seconds = self._seconds(timeout)
        deadline = time.monotonic() + seconds
        left = seconds
        while not done() and not self._is_over(stop):
            if left < 0:
                raise EngineTimeout(f"{what} within {seconds:g} s")
            if self._stepping.acquire(timeout=min(max(left, 0), threading.TIMEOUT_MAX)):
                try:
                    if done():
                        return
                    self._read_notes()
                    if self._core.has_work():
                        self._step(deadline)
                finally:
                    self._stepping.release()
            left = deadline - time.monotonic()
            if not self._core.has_work() and left >= 0:
                with self._news:
                    if not (self._notes or done() or self._is_over(stop)):
                        self._news.wait(min(left, threading.TIMEOUT_MAX))
                left = deadline - time.monotonic()

    def _is_over(self, stop: _Stop) -> bool:
        return stop.asked or self._ledger.over is not None

    def _step(self, deadline: float) -> None:
        """One step, and its outputs into the book; waits a moment when there is nothing to do yet."""
        core = self._core
        if not core.is_ready() and (fd := core.wake_fd()) is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(1000 * min(max(deadline - time.monotonic(), 0), 0.05))  # notes come, too
        began = time.monotonic()
        batch = core.step()
        idle = not batch.outputs and batch.timestamp - began < IDLE
        with self._news:
            self._ledger.put(batch)
            if core.failure is not None and not core.has_work():
                self._ledger.end(core.failure)
            self._news.notify_all()
        if idle and core.wake_fd() is None and core.has_work():
            time.sleep(IDLE)

    def _read_notes(self) -> None:
        while self._notes:
            note = self._notes.popleft()
            if isinstance(note, list):
                self._core.abort_requests(note)
            else:
                self._core.submit(note)

    def _seconds(self, timeout: float | None) -> float:
        return self.config.timeout_s if timeout is None else timeout

    async def _in_thread(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        stop = _Stop()
        running = in_daemon_thread(
            lambda: self._run(done, timeout, what, stop), "enginery-core-step"
        )
        try:
            await running
        except asyncio.CancelledError:
            stop.asked = True
            with self._news:
                self._news.notify_all()
            raise


class _Stop:
    """Nobody waits any more: no further step is needed."""

    asked = False


class _Call:
    """A call's answer, when it is there."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self._answered = False

    def reply(self, value: Any, error: Exception | None) -> None:
        self.value, self.error = value, error
        self._answered = True

    def is_answered(self) -> bool:
        return self._answered
