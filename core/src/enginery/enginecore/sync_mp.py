"""`SyncMPClient`: an engine core in a child process, driven by blocking calls from any number of threads.

Knows: how threads wait for one socket. Does not know: frames, requests and states; those are `ClientState`'s. There is
no thread of its own that reads: of the threads that wait, one reads for all and wakes those whose news has come. So a
program with one thread pays for no hand-over, and a program that does not ask leaves the bytes in the socket.
"""

from __future__ import annotations

import math
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from enginery.enginecore.child import CoreChild
from enginery.enginecore.client import EngineCoreClient, ShutdownMode, patience
from enginery.enginecore.client_state import ClientState
from enginery.enginecore.config import ClientConfig
from enginery.enginecore.messages import Capabilities, EngineCoreOutputs, EngineCoreRequest
from enginery.enginecore.wire import ProtocolError
from enginery.errors import EngineClosedError, EngineLeaked, EngineTimeout

__all__ = ["SyncMPClient"]

CHUNK = 64 * 1024
"""Bytes that are read at once."""


LOOK = 50e-6
"""Seconds that a call looks for its answer before it sleeps; measured, 21 → 17 µs for a call there and back."""


class SyncMPClient(EngineCoreClient):
    """A core in a child process; every method may be called from any thread.

    The constructor returns when the model is loaded. Raises `EngineStartFailed`, with the child's last lines, when
    it cannot be, `EngineTimeout` after ``start_timeout_s``, and `ConfigError` for a callable backend.
    """

    has_sync: ClassVar[bool] = True

    def __init__(self, config: ClientConfig | None = None) -> None:
        self.config = config or ClientConfig()
        self._state = ClientState()
        self._changed = threading.Condition(threading.Lock())
        self._out = ClientState.hello(self.config)
        self._reading = False
        self._closing = False
        self._child = CoreChild()
        self._socket = self._child.socket
        self._wake, self._waker = socket.socketpair()
        self._finalizer = weakref.finalize(
            self, _abandon, self._child, (self._socket, self._wake, self._waker)
        )
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        try:
            with self._changed:
                self._send()
                state = self._state
                self._wait(
                    lambda: state.ready, self.config.start_timeout_s, "the engine core is not ready"
                )
                state.check()
        except BaseException:
            self._finalizer()
            raise

    @property
    def pid(self) -> int:
        """The child's."""
        return self._child.pid

    @property
    def capabilities(self) -> Capabilities:
        """What the core can do."""
        return self._state.able()

    @property
    def unfinished(self) -> int:
        """Requests whose last output was not read yet."""
        return self._state.unfinished

    # -- requests ------------------------------------------------------------------------------

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs:
        """See `EngineCoreClient.get_output`."""
        state = self._state
        with self._changed:
            batch = state.take()
            while batch is None:
                self._wait(lambda: bool(state.unread), timeout, "no output")
                batch = state.take()
            return batch

    def add_request(self, request: EngineCoreRequest) -> str:
        """See `EngineCoreClient.add_request`. Raises EngineTimeout when the core takes nothing for long."""
        with self._changed:
            self._check()
            if self._out:
                self._wait(lambda: not self._out, None, "the engine core takes no requests")
            self._say(self._state.add(request))
        return request.request_id

    def abort_requests(self, request_ids: Sequence[str]) -> list[str]:
        """See `EngineCoreClient.abort_requests`."""
        with self._changed:
            ended, data = self._state.stop(request_ids)
            if data:
                self._say(data)
                self._changed.notify_all()
            return ended

    def call_utility(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """See `EngineCoreClient.call_utility`."""
        state = self._state
        with self._changed:
            self._check()
            call_id, data = state.call(method, args or {})
            try:
                self._say(data)
                self._look(call_id)
                self._wait(lambda: state.answered(call_id), timeout, f"no answer to {method}")
                return state.answer(call_id)
            finally:
                state.forget(call_id)

    # -- the end -------------------------------------------------------------------------------

    def shutdown(self, timeout: float | None = None, mode: ShutdownMode = "abort") -> None:
        """See `EngineCoreClient.shutdown`."""
        with self._changed:
            if self._state.over is None and not self._closing:
                self._closing = True
                self._say(ClientState.shutdown(mode, timeout))
            try:
                over = patience(mode, timeout)
                self._wait(lambda: self._state.over is not None, over, "the core does not end")
            except EngineTimeout:
                self._child.hang_up()  # wakes the thread that reads, too
                if self._state.over is None:
                    self._ended(None)

    def _ended(self, cause: Exception | None) -> None:
        """Nothing more will come; the lock is held."""
        child, state = self._child, self._state
        child.hang_up()
        try:
            child.end()
        except EngineLeaked as leak:
            cause = leak
        cause = cause or state.last_words
        if isinstance(cause, EngineLeaked):
            state.end(cause)
        elif self._closing and (child.killed or not child.returncode):
            state.end(EngineClosedError("the client is shut down"))
        elif state.ready:
            state.end(child.death("serving", cause))
        else:
            state.end(child.not_started(cause))
        self._out.clear()
        self._changed.notify_all()
        if not self._reading:
            self._finalizer()

    # -- waiting; the lock is held in all of these -----------------------------------------------

    def _check(self) -> None:
        if self._closing and self._state.over is None:
            raise EngineClosedError("the client is shutting down")
        self._state.check()

    def _wait(self, done: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Return when ``done()`` or when all is over; raise EngineTimeout when neither comes in time."""
        seconds = self.config.timeout_s if timeout is None else timeout
        left = seconds
        deadline = time.monotonic() + seconds
        while not done() and self._state.over is None:
            if left < 0:
                raise EngineTimeout(f"{what} within {seconds:g} s")
            if self._reading:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            else:
                self._read(left)
            left = deadline - time.monotonic()

    def _look(self, call_id: int) -> None:
        """Wait a moment for an answer without sleeping, unless another thread reads."""
        deadline = time.monotonic() + LOOK
        while not self._reading and not self._state.answered(call_id):
            self._receive()
            if time.monotonic() > deadline:
                return

    def _read(self, left: float) -> None:
        """Wait for the socket, for all threads; the lock is free meanwhile."""
        self._reading = True
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._out else 0))
        self._changed.release()
        try:
            events = self._poll.poll(None if math.isinf(left) else 1000 * left)
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        for fd, event in events:
            if fd == self._wake.fileno():
                self._wake.recv(4096)
            elif event & ~select.POLLOUT:
                self._receive()
        if self._state.over is not None:
            self._finalizer()  # it ended while we read; the descriptors were ours until now
        else:
            self._send()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(None)
            return
        try:
            self._state.feed(data)
        except ProtocolError as error:
            self._ended(error)

    def _say(self, data: bytearray) -> None:
        """Send, and see to it that what the socket does not take now is sent later."""
        self._out += data
        self._send()
        if self._out and self._reading:
            self._waker.send(b"\0")  # whoever reads must look for room, too

    def _send(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # it is gone; the end of the stream will tell


def _abandon(child: CoreChild, sockets: tuple[socket.socket, ...]) -> None:
    """The last thing, also for a client that was dropped: no process and no descriptor is left."""
    child.hang_up()
    try:
        child.end()
    finally:
        for each in sockets:
            each.close()
