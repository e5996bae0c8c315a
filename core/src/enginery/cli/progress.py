"""Showing on stderr that an engine loads: a live line on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import TextIO

from enginery.engine.events import EngineEvent

__all__ = ["Progress", "follow"]

EVERY = 5.0
TICK = 0.2


class Progress:
    """Fed with the manager's events; prints what a person who waits wants to know.

    Args:
        stream: where to.
        clock: monotonic seconds.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._live = self._stream.isatty()
        self._began: dict[str, float] = {}
        self._printed = 0.0
        self._fraction: float | None = None
        self._width = 0

    def show(self, event: EngineEvent) -> None:
        """Print what ``event`` means for the one who waits, if anything."""
        name = event.model or ""
        now = self._clock()
        if event.type == "load.progress":
            self._fraction = event.data.get("progress")
            self._waiting(name, now, self._fraction)
        elif event.type == "instance.state":
            state = event.data["state"]
            if state == "starting":
                self._began[name] = self._printed = now
                self._fraction = None
                if self._live:
                    self._waiting(name, now, None)
            elif state == "ready" and name in self._began:
                self._line(f"{name} is ready after {now - self._began.pop(name):.2f} s")
            elif state == "failed":
                self._began.pop(name, None)
            elif state == "stopping":
                self._began.pop(name, None)
                self._line(f"stopping {name} ({event.data['reason']})")

    def tick(self) -> None:
        """Called now and then: a load that says nothing still takes time."""
        now = self._clock()
        for name in self._began:
            self._waiting(name, now, self._fraction)

    def close(self) -> None:
        """Leave no half line behind."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _waiting(self, name: str, now: float, fraction: float | None) -> None:
        part = "" if fraction is None else f" {100 * fraction:.0f} %"
        text = f"loading {name}{part} … {now - self._began.get(name, now):.1f} s"
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._stream.flush()
            self._width = len(text)
        elif now - self._printed >= EVERY:
            self._printed = now
            self._line(text)

    def _line(self, text: str) -> None:
        lead = "\r" if self._live else ""
        self._stream.write(lead + text.ljust(self._width) + "\n")
        self._stream.flush()
        self._width = 0


async def follow(events: AsyncIterator[EngineEvent], progress: Progress) -> None:
    """Show every event until they end, and the time that passes between them."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK)
            progress.tick()

    ticking = asyncio.create_task(tick())
    try:
        async for event in events:
            progress.show(event)
    finally:
        ticking.cancel()
