"""What many connections are to be sent, written behind one another when the loop's turn ends.

Knows: that bytes of many requests and streams come in one turn of the loop, and that reading all and then writing all
costs less than reading and writing by turns: what the interpreter needs of the processor's caches stays there
while it reads, and what the kernel needs while it writes. Measured with 64 connections: a fifth of a request's
CPU time, three to ten percent of a chunk's. Does not know: what is written.

Nothing may overtake anything. `call_soon` keeps the order, so whatever a task does because of a write comes after
it; who writes or closes in the same turn without a task in between calls `flush` before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized

__all__ = ["Outbox"]

MOST = 32
"""Writes that wait at most; the caches hold no more, and the first one should not wait for the last."""


FEW = 4
"""Where fewer than these are under way, a turn of the loop brings one write, which only gets later by waiting."""


class Outbox:
    """The writes of one event loop.

    Attributes:
        crowd: all that are under way; None: they are taken to be many.
    """

    __slots__ = ("_loop", "_waiting", "crowd")

    def __init__(self) -> None:
        self.crowd: Sized | None = None
        self._waiting: list[tuple[Callable[[bytes], object], bytes]] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it costs a system call

    def put(self, write: Callable[[bytes], object], data: bytes) -> None:
        """Call ``write``, a transport's, with ``data`` at the end of this turn of the loop, or before."""
        if self.crowd is not None and len(self.crowd) < FEW:
            self.flush()
            write(data)
            return
        waiting = self._waiting
        if not waiting:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        waiting.append((write, data))
        if len(waiting) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for write, data in waiting:
                try:
                    write(data)
                except RuntimeError:
                    continue  # uvloop's, of a transport that was closed: its protocol is told of that
