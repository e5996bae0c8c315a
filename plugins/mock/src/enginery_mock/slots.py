"""Slots: how many requests run at once, who waits, and the counts that tests read.

Knows: names of requests and their order. Does not know: what they are or how long they take. It alone
owns these numbers; a request that leaves, for whatever reason, gives its place to the next in line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from enginery import EngineBusy

__all__ = ["Slots"]

REMEMBERED_IDS = 10_000
BUSY_RETRY_AFTER = 1.0


class Slots:
    """A fixed number of slots with a queue in order of arrival.

    Args:
        number: requests that run at once.
        max_queue: requests that may wait; None is any number.
        journal: a file to which each name is appended as it comes: what was received is known even of a
            server that was killed.
    """

    def __init__(
        self, number: int, max_queue: int | None = None, *, journal: str | None = None
    ) -> None:
        self._journal = journal
        self._number = number
        self._max_queue = max_queue
        self._running = 0
        self._paused = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counts = dict.fromkeys(("received", "finished", "cancelled", "refused"), 0)
        self._ids: deque[str] = deque(maxlen=REMEMBERED_IDS)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Wait for a slot and keep it; ``name`` is what `report` calls this request.

        Raises:
            EngineBusy: as many wait as may.
        """
        self._counts["received"] += 1
        self._ids.append(name)
        self._write_journal(name)
        try:
            await self._take()
            try:
                yield
            finally:
                self._give_back()
        except EngineBusy:
            self._counts["refused"] += 1
            raise
        except BaseException:  # mostly CancelledError: the client left
            self._counts["cancelled"] += 1
            raise
        self._counts["finished"] += 1

    def _write_journal(self, name: str) -> None:
        if self._journal is not None:
            with Path(self._journal).open("a") as journal:  # one short write is one whole line
                journal.write(name + "\n")

    def report(self) -> dict[str, Any]:
        """Counts since the start, how many run and wait now, and the last 10,000 names as they came.

        ``paused`` is True from when it is told to sleep until it is awake.
        """
        return {
            **self._counts,
            "running": self._running,
            "queued": len(self._waiting),
            "paused": self._paused,
            "ids": list(self._ids),
        }

    def pause(self) -> None:
        """Give out no slot until `resume`."""
        self._paused = True

    async def idle(self) -> None:
        """Returns when no slot is in use."""
        await self._idle.wait()

    def resume(self) -> None:
        """Undo `pause`: those who waited go on in their order."""
        self._paused = False
        while self._running < self._number and self._hand_over():
            self._count(+1)

    async def _take(self) -> None:
        if self._running < self._number and not self._paused:
            self._count(+1)
            return
        if self._max_queue is not None and len(self._waiting) >= self._max_queue:
            raise EngineBusy(
                f"no slot of {self._number} is free and {len(self._waiting)} requests wait",
                retry_after=BUSY_RETRY_AFTER,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # `_give_back` may have dropped it already
                    self._waiting.remove(turn)
            else:  # the slot was handed over in the same turn of the loop as the client left
                self._give_back()
            raise

    def _give_back(self) -> None:
        """Hand the slot to the next in line, so that nobody can slip in between."""
        if self._paused or not self._hand_over():
            self._count(-1)

    def _hand_over(self) -> bool:
        """Let the first go who still waits; False when nobody does."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def _count(self, change: int) -> None:
        self._running += change
        if self._running:
            self._idle.clear()
        else:
            self._idle.set()
