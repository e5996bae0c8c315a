"""Requests that run can be told to end, or to stand still, as vLLM's are by sleep, pause and abort.

Knows: who rests between two tokens. Does not know: slots, replies, or who tells it. Between tokens is where it is
noticed, as engines notice it between steps.
"""

from __future__ import annotations

import asyncio
from typing import Self

__all__ = ["Halts", "Work"]


class Halts:
    """All requests of one mock that run."""

    def __init__(self) -> None:
        self.works: set[Work] = set()
        self.flowing = asyncio.Event()
        """Not set while they stand still."""
        self.flowing.set()

    def end_all(self, ids: frozenset[str] | None = None) -> int:
        """Tell those of ``ids``, None for all, to end; how many were told."""
        told = [work for work in self.works if not work.over and (ids is None or work.id in ids)]
        for work in told:
            work.end()
        return len(told)

    def freeze(self) -> None:
        """No token any more until `thaw`."""
        self.flowing.clear()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.flowing.set()


class Work:
    """One request while it runs: ``with Work(halts, id) as work``."""

    def __init__(self, halts: Halts, id: str) -> None:
        self.id = id
        self.over = False
        """It was told to end."""
        self._halts = halts
        self._resting: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._halts.works.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._halts.works.discard(self)

    def end(self) -> None:
        """From now on `rest` says so, at once."""
        self.over = True
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    async def rest(self, seconds: float) -> bool:
        """Wait as long as a token takes, and for as long as all stand still; True when it is to end instead."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await self._wait(seconds)
        if not self._halts.flowing.is_set() and not self.over:
            await self._halts.flowing.wait()
        return self.over

    async def _wait(self, seconds: float) -> None:
        if self.over:
            return
        loop = asyncio.get_running_loop()
        self._resting = loop.create_future()
        timer = loop.call_later(seconds, _done, self._resting)
        try:
            await self._resting
        finally:
            timer.cancel()
            self._resting = None


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
