"""The manager's end of the socket to one engine's guardians.

Knows: the messages, and how to read a wait status. Does not know: processes, pipes, stop plans.

The socket is watched, not handed to a transport: it is ours until `Control.close`, on every event loop and at every
moment. Whose a transport's is, nobody can tell who was cancelled while it was made: asyncio closes the socket's
object a turn later, uvloop its number at once; and a number that is closed twice is somebody else's file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from dataclasses import dataclass

from enginery.engine.guardian import split_messages
from enginery.errors import EngineStartFailed

__all__ = ["Control", "ExitStatus"]


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: ``code`` if by itself, ``signal`` if killed; both None if unknown."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def from_wait_status(cls, status: int) -> ExitStatus:
        """From what ``waitpid`` gives."""
        if os.WIFSIGNALED(status):
            return cls(signal=os.WTERMSIG(status))
        return cls(code=os.WEXITSTATUS(status))

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"killed by {name}"
        return "ended in an unknown way" if self.code is None else f"exit status {self.code}"


CHUNK = 64 * 1024


class Control:
    """Our end of the guardians' socket: messages out, milestones in.

    ``started`` is the pids of engine and inner guardian. ``exited`` is for its owner to set, once the last
    output is read too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.started: asyncio.Future[tuple[int, int]] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.exited: asyncio.Future[ExitStatus] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.status: ExitStatus | None = None
        self._loop = loop
        self._socket: socket.socket | None = None
        self._heard = bytearray()
        self._unsent = bytearray()
        self._writing = False
        # a failed start is told to whoever awaits it; if that one was cancelled, to nobody
        self.started.add_done_callback(lambda f: f.cancelled() or f.exception())

    def watch(self, ours: socket.socket) -> None:
        """Listen and speak on ``ours``, which blocks nobody; it is closed by `close`, or at their end."""
        self._socket = ours
        self._loop.add_reader(ours, self._readable)

    def _readable(self) -> None:
        # until nothing is left: where the other end died with a message of ours unread, uvloop tells once
        while self._socket is not None:
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self.hear(data)
            else:
                self.close()

    def hear(self, data: bytes) -> None:
        """Take in what either guardian said."""
        self._heard += data
        for kind, *fields in split_messages(self._heard):
            if kind == "started" and not self.started.done():
                self.started.set_result((int(fields[0]), int(fields[1])))
            elif kind == "failed" and not self.started.done():
                self.started.set_exception(EngineStartFailed(f"cannot start {fields[0]}"))
            elif kind == "exited" and self.status is None:
                self.status = ExitStatus.from_wait_status(int(fields[0]))
                _done(self.ended)
            elif kind == "gone":
                self._all_over()

    def _all_over(self) -> None:
        if not self.started.done():
            self.started.set_exception(EngineStartFailed("the guardian process ended"))
        _done(self.ended)
        _done(self.gone)

    def send(self, *fields: str) -> None:
        """One message to whoever of them reads; lost when there is nobody."""
        if self._socket is not None:
            payload = "\0".join(fields).encode("utf-8", "surrogateescape")
            self._unsent += len(payload).to_bytes(4, "big") + payload
            self._send()

    def _send(self) -> None:
        assert self._socket is not None
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # they are gone; the end of what they say will tell
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            if self._writing:
                self._loop.add_writer(self._socket, self._send)
            else:
                self._loop.remove_writer(self._socket)

    def close(self) -> None:
        """Hang up: guardians that still live take that for our death.

        Called too when both are gone. If they were killed at once, the kernel killed the engine with them; what the
        engine itself had started survives that one case.
        """
        if self._socket is None:
            return
        ours, self._socket = self._socket, None
        self._loop.remove_reader(ours)
        self._loop.remove_writer(ours)
        ours.close()
        self._all_over()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
