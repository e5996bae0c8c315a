"""`EngineCoreProc`: an engine core in a process of its own. Run as ``python -m enginery.enginecore.process FD``.

Knows: the socket that it inherited, when to step and when to wait, and its parent's death. Does not know: requests,
backends, or what frames mean. One thread does everything: it looks at the socket between steps, so commands wait for
one step at most and no other thread fights it for the interpreter. It never waits for the client, who may be slow,
stopped or dead; what it cannot send is kept by `CoreEnd`.

A second thread sleeps until the other end of the socket is gone, and a moment later ends the whole process group: the
first one may be inside a step that never returns. The group is ours alone, for the parent starts us in a session.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

from enginery.enginecore.config import ClientConfig, load_backend
from enginery.enginecore.core_end import CoreEnd
from enginery.enginecore.loop import EngineCore
from enginery.enginecore.messages import RequestType
from enginery.enginecore.wire import Hello, ProtocolError, Shutdown, Utility
from enginery.errors import EngineryError, InvalidRequest

__all__ = ["EngineCoreProc", "main"]

CHUNK = 64 * 1024
"""Bytes that are read at once; a step may follow before the rest."""

IDLE_MS = 1
"""Milliseconds from one step to the next when the first gave nothing, though there is work. A piece of a long
prompt gives nothing either, but it takes longer than this, and the next one follows at once."""

LINGER = 2.0
"""Seconds that the last frames may take to leave."""

ORPHAN_GRACE = 3.0
"""Seconds from the parent's death until the group is killed; an orderly end is quicker."""

_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class EngineCoreProc:
    """The process around an `EngineCore`.

    Args:
        sock: our end of the socketpair; non-blocking from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.client_gone = False
        """True when the stream ended: the parent is dead, or wants us to be."""
        self._socket = sock
        self._fd = sock.fileno()
        self._end = CoreEnd()
        self._early: list[tuple[int, Any]] = []
        """What came in one piece with the greeting."""
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._writing = False
        self._watched: int | None = None
        self._deadline: float | None = None
        self._stopping = False
        self._terminated = False

    def run(self) -> int:
        """Load the backend and serve until the end; returns the exit status."""
        core: EngineCore | None = None
        try:
            hello = self._greeting()
            if hello is None:
                return 0
            sys.path[:] = hello.path or sys.path
            config = ClientConfig(**hello.config)
            core = EngineCore(load_backend(config), log_stats=config.log_stats)
            self.end_on_sigterm()
            gc.freeze()  # what is there now stays: no need to look through it again
            self._end.ready(core.capabilities, os.getpid())
            self.run_loop(core)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client is told
            if not isinstance(error, EngineryError) or error.__cause__ is not None:
                traceback.print_exc()
            self._end.dead(error)
            return 1
        finally:
            if core is not None:
                last = core.shutdown()
                if last.outputs:
                    self._end.outputs(last)
            self._leave()
        return 0

    def run_loop(self, core: EngineCore) -> None:
        """Commands in, steps, outputs out, until the client wants the end or is gone.

        Raises `ProtocolError` for a client that talks nonsense, and `EngineDeadError` when the backend failed.
        """
        idle = False
        self._carry_out(core, self._early)
        while True:
            self._flush()
            self._watch(core.wake_fd())
            for fd, event in self._poll.poll(self._patience(core, idle=idle)):
                if fd == self._fd and event & ~select.POLLOUT and not self._listen(core):
                    return
            if self._terminated or (self._stopping and self._finished(core)):
                return
            if core.has_work():
                began = time.monotonic()
                batch = core.step()
                idle = not batch.outputs and 1000 * (batch.timestamp - began) < IDLE_MS
                if batch.outputs or batch.stats:
                    self._end.outputs(batch)
            if core.failure is not None and not core.has_work():
                raise core.failure

    def end_on_sigterm(self) -> None:
        """SIGTERM ends it as a shutdown does, with a last output for every request."""
        self._signals, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.detach())  # else poll() would sleep on
        self._poll.register(self._signals, select.POLLIN)

        def note(*_: object) -> None:
            self._terminated = True

        signal.signal(signal.SIGTERM, note)

    # -- commands ------------------------------------------------------------------------------

    def _greeting(self) -> Hello | None:
        """The first message; None when the client left instead."""
        while True:
            self._poll.poll()
            data = self._read()
            if not data:
                return None
            heard = self._end.feed(data)
            if heard:
                (_, hello), *self._early = heard
                assert isinstance(hello, Hello)  # CoreEnd lets nothing else be the first
                return hello

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""
        self.client_gone = not data
        return data

    def _listen(self, core: EngineCore) -> bool:
        """Carry out what came; False when the client is gone."""
        data = self._read()
        return self._carry_out(core, self._end.feed(data))

    def _carry_out(self, core: EngineCore, messages: list[tuple[int, Any]]) -> bool:
        for kind, message in messages:
            match kind:
                case RequestType.ADD_REQUEST:
                    try:
                        core.submit(message)
                    except InvalidRequest as error:
                        raise ProtocolError(f"the client broke its promise: {error}") from error
                case RequestType.ABORT_REQUESTS:
                    core.abort_requests(message)
                case RequestType.UTILITY:
                    self._call(core, message)
                case RequestType.SHUTDOWN:
                    self._shut_down(core, message)
        return not self.client_gone

    def _call(self, core: EngineCore, call: Utility) -> None:
        def reply(value: Any, error: Exception | None) -> None:
            if error is None:
                self._end.result(call.call_id, value)
            else:
                self._end.failure(call.call_id, error)

        core.utility(call.method, call.args, reply)

    def _shut_down(self, core: EngineCore, message: Shutdown) -> None:
        self._stopping = True
        if message.mode == "abort":
            self._deadline = 0.0
        else:
            core.drain()
            if message.timeout is not None:
                self._deadline = time.monotonic() + message.timeout

    def _finished(self, core: EngineCore) -> bool:
        return not core.has_work() or (
            self._deadline is not None and time.monotonic() >= self._deadline
        )

    # -- the socket ----------------------------------------------------------------------------

    def _patience(self, core: EngineCore, *, idle: bool) -> float | None:
        """Milliseconds to wait for the socket before the next step; None: until it says something."""
        if self._terminated:
            return 0
        if core.is_ready():
            return IDLE_MS if idle else 0
        if self._stopping and not core.has_work():
            return 0
        if self._deadline is not None:
            return max(0.0, 1000 * (self._deadline - time.monotonic()))
        return None

    def _watch(self, wake_fd: int | None) -> None:
        if wake_fd != self._watched:
            if self._watched is not None:
                self._poll.unregister(self._watched)
            if wake_fd is not None:
                self._poll.register(wake_fd, select.POLLIN)
            self._watched = wake_fd

    def _flush(self) -> None:
        """Send what the socket takes, and be told when it takes more."""
        waiting = self._end.pending()
        if waiting:
            with suppress(BlockingIOError, InterruptedError, ConnectionError):
                self._end.sent(self._socket.send(waiting))
        writing = bool(self._end.pending())
        if writing != self._writing:
            self._writing = writing
            self._poll.modify(self._fd, select.POLLIN | (select.POLLOUT if writing else 0))

    def _leave(self) -> None:
        """Send the last frames, as far as a client that is there takes them in a moment."""
        deadline = time.monotonic() + LINGER
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._end.pending() and (left := deadline - time.monotonic()) > 0:
            if any(event & _GONE for _, event in poll.poll(1000 * left)):
                break
            self._flush()


def _end_with_parent(fd: int) -> None:
    """Runs in a thread: sleeps until the parent hangs up, then leaves a moment for an orderly end."""
    poll = select.poll()
    poll.register(fd, 0)  # nothing but the hang-up
    poll.poll()
    time.sleep(ORPHAN_GRACE)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """The program: one argument, the number of the inherited descriptor."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)  # the backend's own children must not keep the stream open
    with socket.socket(fileno=fd) as sock:
        threading.Thread(target=_end_with_parent, args=(fd,), daemon=True).start()
        core = EngineCoreProc(sock)
        status = core.run()
        sys.stdout.flush()
        sys.stderr.flush()
        if core.client_gone:
            os.killpg(0, signal.SIGKILL)  # nobody else is there to end the backend's children
        return status


if __name__ == "__main__":
    sys.exit(main())
