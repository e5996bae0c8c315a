"""Deadlines of everything that is under way, looked at once a second.

A timer for each stream would cost more than the stream; a second's delay on a deadline of minutes
costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from enginery.engine.catalog import Limits
from enginery.errors import EngineTimeout
from enginery.gateway.relay import Relay
from enginery.gateway.sent import Deadlines
from enginery.gateway.upstreams import UpstreamPool

__all__ = ["Watch"]

EVERY = 1.0


class Watch:
    """Looks after relays and kept connections.

    Args:
        pool: its idle connections are closed in time.
        on_stall: told of a relay whose engine stopped answering.
        write_stall: seconds for which a client may leave unread what a relay wrote.
        every: seconds between two looks.
    """

    def __init__(
        self,
        pool: UpstreamPool,
        on_stall: Callable[[Relay, EngineTimeout], None],
        *,
        write_stall: float = 60.0,
        every: float = EVERY,
    ) -> None:
        self._pool = pool
        self._on_stall = on_stall
        self._write_stall = write_stall
        self._every = every
        self.also: list[Callable[[float], None]] = []
        """Called at each look, with the time."""
        self.relays: set[Relay] = set()
        """All that are under way; each sees to itself that it is in here."""
        pool.outbox.crowd = self.relays
        self._deadlines: dict[int, tuple[Limits, Deadlines]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to look; on the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every, self._tick)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def deadlines(self, limits: Limits) -> Deadlines:
        """A model's deadlines; the same object each time."""
        found = self._deadlines.get(id(limits))
        if found is None or found[0] is not limits:
            found = limits, Deadlines(limits.first_byte, limits.stall, self._write_stall)
            self._deadlines[id(limits)] = found
        return found[1]

    def forget(self) -> None:
        """Models' deadlines are others now; relays under way keep theirs."""
        self._deadlines.clear()

    def look(self, now: float) -> None:
        """One look at everything."""
        for relay in list(self.relays):
            error = relay.look(now)
            if error is not None:
                self._on_stall(relay, error)
        self._pool.prune(now)
        for look in self.also:
            look(now)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._every, self._tick)
        self.look(monotonic())
