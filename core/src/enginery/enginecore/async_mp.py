"""`AsyncMPClient`: an engine core in a child process, driven from an event loop.

Knows: how an event loop watches the socket and who waits for what. Does not know: frames, requests and states; those
are `ClientState`'s. The loop holds the `_Link`, never the client, so a client that is dropped is collected, and takes
its child along. The child is started at once and the loop is found by the first awaited call.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

from enginery.enginecore.child import CoreChild
from enginery.enginecore.client import EngineCoreClient, ShutdownMode, patience
from enginery.enginecore.client_state import ClientState
from enginery.enginecore.config import ClientConfig
from enginery.enginecore.messages import Capabilities, EngineCoreOutputs, EngineCoreRequest
from enginery.enginecore.wire import ProtocolError
from enginery.errors import EngineClosedError, EngineLeaked, EngineTimeout
from enginery.threads import in_daemon_thread

__all__ = ["AsyncMPClient"]

CHUNK = 64 * 1024
"""Bytes that are read at once."""

HIGH_WATER = 1024 * 1024
"""Bytes on their way to the core above which `add_request_async` waits."""


class AsyncMPClient(EngineCoreClient):
    """A core in a child process, for one event loop: the one that awaits first.

    ``async with`` and the first awaited call wait until the model is loaded. They raise `EngineStartFailed`, with the
    child's last lines, when it cannot be, and `EngineTimeout` after ``start_timeout_s``. The constructor raises
    `ConfigError` for a callable backend.
    """

    has_async: ClassVar[bool] = True

    def __init__(self, config: ClientConfig | None = None) -> None:
        self.config = config or ClientConfig()
        self._link = _Link(self.config)
        self._state = self._link.state
        self._finalizer = weakref.finalize(self, self._link.abandon)

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.shutdown_async()
            raise
        return self

    @property
    def pid(self) -> int:
        """The child's."""
        return self._link.child.pid

    @property
    def capabilities(self) -> Capabilities:
        """What the core can do; known after the first awaited call."""
        return self._state.able()

    @property
    def unfinished(self) -> int:
        """Requests whose last output was not read yet."""
        return self._state.unfinished

    async def get_output_async(self, timeout: float | None = None) -> EngineCoreOutputs:
        """See `EngineCoreClient.get_output`."""
        await self._open()
        state, link = self._state, self._link
        while (batch := state.take()) is None:
            await link.wait(lambda: bool(state.unread), self._seconds(timeout), "no output")
        return batch

    async def add_request_async(self, request: EngineCoreRequest) -> str:
        """See `EngineCoreClient.add_request`. Raises EngineTimeout when the core takes nothing for long."""
        await self._open()
        link = self._link
        if link.unsent > HIGH_WATER:
            what = "the engine core takes no requests"
            await link.wait(lambda: link.unsent <= HIGH_WATER, self.config.timeout_s, what)
        link.check()
        link.say(self._state.add(request))
        return request.request_id

    async def abort_requests_async(self, request_ids: Sequence[str]) -> list[str]:
        """See `EngineCoreClient.abort_requests`."""
        self._link.attach()
        ended, data = self._state.stop(request_ids)
        if data:
            self._link.say(data)
            self._link.changed()
        return ended

    async def call_utility_async(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """See `EngineCoreClient.call_utility`."""
        await self._open()
        state, link = self._state, self._link
        link.check()
        call_id, data = state.call(method, args or {})
        try:
            link.say(data)
            what = f"no answer to {method}"
            await link.wait(lambda: state.answered(call_id), self._seconds(timeout), what)
            return state.answer(call_id)
        finally:
            state.forget(call_id)

    async def shutdown_async(
        self, timeout: float | None = None, mode: ShutdownMode = "abort"
    ) -> None:
        """See `EngineCoreClient.shutdown`."""
        link = self._link
        if link.closed:
            return
        link.attach()
        link.ask_for_end(mode, timeout)
        over = link.is_closed
        try:
            await link.wait(over, patience(mode, timeout), "the core does not end")
        except EngineTimeout:
            link.child.hang_up()
            await link.wait(over, math.inf, "")

    def shutdown(self, timeout: float | None = None, mode: ShutdownMode = "abort") -> None:
        """See `EngineCoreClient.shutdown`. Blocks, also when it is called on the event loop."""
        link, loop = self._link, self._link.loop
        if link.closed:
            return
        if loop is not None and loop.is_running() and loop is not _running_loop():
            ending = self.shutdown_async(timeout, mode)
            asyncio.run_coroutine_threadsafe(ending, loop).result()
        else:
            link.end_blocking(timeout, mode)

    async def _open(self) -> None:
        link, state = self._link, self._state
        link.attach()
        if not state.ready and state.over is None:
            left = link.started_at + self.config.start_timeout_s - time.monotonic()
            await link.wait(lambda: state.ready, left, "the engine core is not ready")
            if not state.ready:
                state.check()

    def _seconds(self, timeout: float | None) -> float:
        return self.config.timeout_s if timeout is None else timeout


class _Link:
    """The child, its socket on the event loop, and those who wait."""

    def __init__(self, config: ClientConfig) -> None:
        self._out = ClientState.hello(config)
        self.state = ClientState()
        self.child = CoreChild()
        self.started_at = time.monotonic()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.closed = False
        """True when nothing of the child is left, nor of us on the loop."""
        self._socket = self.child.socket
        self._waiters: set[asyncio.Future[bool]] = set()
        self._closing = False
        self._writing = False
        self._reaping = False
        self._cause: Exception | None = None
        self._send()

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return len(self._out)

    def is_closed(self) -> bool:
        """`closed`, to be called."""
        return self.closed

    def check(self) -> None:
        """Raise what every call raises when the client is closing or over."""
        if self._closing and self.state.over is None:
            raise EngineClosedError("the client is shutting down")
        self.state.check()

    # -- waiting -------------------------------------------------------------------------------

    def attach(self) -> None:
        """Watch the socket on the running loop, once. Raises RuntimeError on another loop."""
        loop = asyncio.get_running_loop()
        if self.loop is loop:
            return
        if self.loop is not None and not self.closed:
            raise RuntimeError("an AsyncMPClient belongs to the event loop that used it first")
        self.loop = loop
        if not self.closed:
            loop.add_reader(self._socket, self._readable)
            self._send()

    async def wait(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Return when ``done()`` or when all is over; raise EngineTimeout when neither comes in time."""
        assert self.loop is not None  # `attach` came first
        timer: asyncio.TimerHandle | None = None
        waiter: asyncio.Future[bool] | None = None
        deadline = self.loop.time() + seconds
        while not done() and not (self.state.over is not None and self.closed):
            if waiter is not None and self.loop.time() >= deadline:
                raise EngineTimeout(f"{what} within {seconds:g} s")
            waiter = self.loop.create_future()
            if not math.isinf(seconds):
                timer = self.loop.call_at(deadline, _wake, waiter)
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
                if timer is not None:
                    timer.cancel()

    def changed(self) -> None:
        """Let everybody who waits look again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _wake(waiter)

    # -- the socket ----------------------------------------------------------------------------

    def say(self, data: bytearray) -> None:
        """Send, now or when there is room."""
        self._out += data
        self._send()

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # it is gone; the end of the stream will tell
        if bool(self._out) != self._writing and self.loop is not None:
            self._writing = bool(self._out)
            if self._writing:
                self.loop.add_writer(self._socket, self._writable)
            else:
                self.loop.remove_writer(self._socket)

    def _writable(self) -> None:
        self._send()
        self.changed()

    def _readable(self) -> None:
        if self._reaping or self.closed:
            return  # a look that was put off
        received = self._receive()
        if not received:
            return
        if received > 0:
            # a core that died with words of ours unread resets the socket, and of that uvloop tells once,
            # however much is left to read: look again until there is nothing
            assert self.loop is not None
            self.loop.call_soon(self._readable)
        else:
            self._unwatch()
            self._reaping = True
            ending = in_daemon_thread(self.child.end, "enginery-core-end")
            ending.add_done_callback(self._reaped)
        self.changed()

    def _receive(self) -> int:
        """Take in what is there: how many bytes; -1 at the end of the stream, or when it is as good as that."""
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            return -1
        try:
            self.state.feed(data)
        except ProtocolError as error:
            self._cause = error
            self.child.hang_up()
            return -1
        return len(data) or -1

    # -- the end -------------------------------------------------------------------------------

    def ask_for_end(self, mode: ShutdownMode, timeout: float | None) -> None:
        """Say that the core should end; one that still loads its model would not hear it."""
        if self._closing:
            return
        self._closing = True
        if self.state.ready:
            self.say(ClientState.shutdown(mode, timeout))
        else:
            self.child.hang_up()

    def end_blocking(self, timeout: float | None, mode: ShutdownMode) -> None:
        """Ask for the end and see it through without the loop."""
        self.ask_for_end(mode, timeout)
        deadline = time.monotonic() + patience(mode, timeout)
        poll = select.poll()
        while not self._reaping:
            left = deadline - time.monotonic()
            if left <= 0:
                self.child.hang_up()
                break
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
            poll.poll(None if math.isinf(left) else 1000 * left)
            self._send()
            if self._receive() < 0:
                break
        try:
            self.child.end()
        except EngineLeaked as leak:
            self._cause = leak
        self.close()

    def _reaped(self, ending: asyncio.Future[None]) -> None:
        error = ending.exception()
        if isinstance(error, EngineLeaked):
            self._cause = error
        self.close()

    def _unwatch(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(self._socket)
            self.loop.remove_writer(self._socket)

    def close(self) -> None:
        """The child is gone: say so to everybody, and give up the socket."""
        if self.closed:
            return
        self.closed = True
        self._unwatch()
        self._socket.close()
        state, child = self.state, self.child
        cause = self._cause or state.last_words
        if isinstance(cause, EngineLeaked):
            state.end(cause)
        elif self._closing and (child.killed or not child.returncode):
            state.end(EngineClosedError("the client is shut down"))
        elif state.ready:
            state.end(child.death("serving", cause))
        else:
            state.end(child.not_started(cause))
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self.changed()

    def abandon(self) -> None:
        """The client was dropped, perhaps in another thread: no process and no descriptor is left."""
        if self.closed:
            return
        self._closing = True
        self.child.hang_up()
        try:
            self.child.end()
        finally:
            loop = self.loop
            try:
                if loop is None or loop.is_closed() or loop is _running_loop():
                    self.close()
                else:
                    loop.call_soon_threadsafe(self.close)
            except RuntimeError:  # it was closed in between
                self.close()


def _wake(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
