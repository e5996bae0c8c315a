"""Who waits for a stream: a thread, or a task of an event loop; and how many are woken at once.

Knows: how to wake either from any thread. Does not know: what they wait for. Waking a loop from outside costs 5 to
8 µs, so those of one loop are woken by one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterable

__all__ = ["LoopWaiter", "ThreadWaiter", "Waiter", "wake_all"]


class ThreadWaiter:
    """Waits once, in a thread."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """End the waiting; is called once at most."""
        self._lock.release()

    def wait(self, timeout: float | None) -> None:
        """Until woken, at most so many seconds; None, for ever."""
        if timeout is None:
            self._lock.acquire()
        elif timeout > 0:
            self._lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class LoopWaiter:
    """Waits in a task of the running loop; with a new ``future`` another time.

    A wake-up that was on its way to the time before ends the next one early: who waits looks again anyway.
    """

    __slots__ = ("future", "loop", "thread")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.thread = threading.get_ident()

    def wake(self) -> None:
        """End the waiting; from any thread."""
        if self.thread == threading.get_ident():
            self.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self.set)

    def set(self) -> None:
        """End the waiting; in the loop's thread."""
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self, timeout: float | None) -> None:
        """Until woken, at most so many seconds; None, for ever."""
        if timeout is None:
            await self.future
            return
        timer = self.loop.call_later(max(timeout, 0), self.set)
        try:
            await self.future
        finally:
            timer.cancel()


Waiter = ThreadWaiter | LoopWaiter


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Wake these, each loop by one call."""
    here = threading.get_ident()
    loops: dict[asyncio.AbstractEventLoop, list[LoopWaiter]] = {}
    latest: asyncio.AbstractEventLoop | None = None
    bunch: list[LoopWaiter] = []
    for waiter in waiters:
        if isinstance(waiter, ThreadWaiter) or waiter.thread == here:
            waiter.wake()
            continue
        if waiter.loop is not latest:  # mostly there is one
            latest = waiter.loop
            bunch = loops.setdefault(latest, [])
        bunch.append(waiter)
    for loop, theirs in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_set_all, theirs)


def _set_all(waiters: list[LoopWaiter]) -> None:
    for waiter in waiters:
        future = waiter.future
        if not future.done():
            future.set_result(None)
