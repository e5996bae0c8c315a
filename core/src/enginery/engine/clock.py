"""Time as an argument: the running loop's clock, or a test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

__all__ = ["Clock", "LoopClock", "Timer"]


class Timer(Protocol):
    """A call that was put off and can be taken back."""

    def cancel(self) -> None:
        """Take it back; nothing happens if it ran already."""
        ...


class Clock(Protocol):
    """Monotonic seconds and waiting. Its zero means nothing."""

    def now(self) -> float:
        """Seconds."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once `now` has reached ``when``."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class LoopClock:
    """The clock of asyncio's loops, which all count from the same zero."""

    def now(self) -> float:
        """`time.monotonic`, as loops do; asking for the running loop first would cost a system call."""
        return monotonic()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """`asyncio.AbstractEventLoop.call_at`."""
        return asyncio.get_running_loop().call_at(when, callback)

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)
