"""The manager's end of the socket to one engine's guardians.

Knows: the messages, and how to read a wait status. Does not know: processes, pipes, stop plans.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import cast

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


class Control(asyncio.Protocol):
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
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        # a failed start is told to whoever awaits it; if that one was cancelled, to nobody
        self.started.add_done_callback(lambda f: f.cancelled() or f.exception())

    @property
    def connected(self) -> bool:
        """True once asyncio owns the socket."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop, once."""
        # not asserted: uvloop's transports are no subclasses of asyncio's
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop with what either guardian said."""
        self._buffer += data
        for kind, *fields in split_messages(self._buffer):
            if kind == "started" and not self.started.done():
                self.started.set_result((int(fields[0]), int(fields[1])))
            elif kind == "failed" and not self.started.done():
                self.started.set_exception(EngineStartFailed(f"cannot start {fields[0]}"))
            elif kind == "exited" and self.status is None:
                self.status = ExitStatus.from_wait_status(int(fields[0]))
                _done(self.ended)
            elif kind == "gone":
                self._all_over()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Both guardians are gone; if they were killed at once, the kernel killed the engine too.

        What the engine itself had started survives that one case.
        """
        self._all_over()

    def _all_over(self) -> None:
        if not self.started.done():
            self.started.set_exception(EngineStartFailed("the guardian process ended"))
        _done(self.ended)
        _done(self.gone)

    def send(self, *fields: str) -> None:
        """One message to whoever of them reads; lost when there is nobody."""
        if self._transport is not None and not self._transport.is_closing():
            payload = "\0".join(fields).encode("utf-8", "surrogateescape")
            self._transport.write(len(payload).to_bytes(4, "big") + payload)

    def close(self) -> None:
        """Hang up: guardians that still live take that for our death."""
        if self._transport is not None:
            self._transport.close()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
