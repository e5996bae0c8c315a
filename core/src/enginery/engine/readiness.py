"""Noticing that an engine can serve: when to look, and when to give up.

Knows: the rhythm of looking and the two deadlines. Does not know: how a look is made. A look is made
at once, then after 2 % of the time waited (at least 2 ms, at most 250 ms): so the delay stays a small
fraction of any load, and a load of minutes is not disturbed (measured beside other rhythms: 3 to
22 ms late for loads of 0.06 to 1.7 s, where a fixed second is up to 0.9 s late).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from enginery.engine.clock import Clock
from enginery.errors import EngineStartFailed, EngineTimeout
from enginery.values import Health

__all__ = ["next_look", "pause", "wait_until_ready"]

SHORTEST, LONGEST, FRACTION = 0.002, 0.25, 0.02


def next_look(waited: float) -> float:
    """Seconds until the next look, after ``waited`` seconds of waiting."""
    return min(LONGEST, max(SHORTEST, FRACTION * waited))


async def wait_until_ready(
    look: Callable[[], Awaitable[Health]],
    *,
    clock: Clock,
    hint: asyncio.Event,
    signs_of_life: Callable[[], object],
    stall: float,
    cap: float,
    on_progress: Callable[[Health], None] = lambda _: None,
) -> Health:
    """Look until the engine is ready.

    Args:
        look: one health check; it never raises for an engine that does not answer yet.
        clock: seconds.
        hint: set when there is a reason to look now; cleared here.
        signs_of_life: any value that changes while the engine makes progress (bytes printed); asked for every
            250 ms at most, and before the engine is given up.
        stall: seconds without progress after which the engine is given up.
        cap: seconds in all.
        on_progress: called with each health report that differs from the one before.

    Raises:
        EngineTimeout: a deadline passed; the message says which, and what the engine said last.
        EngineStartFailed: the engine itself says that it failed.
    """
    began = progressed = clock.now()
    felt = -math.inf
    life: object = None
    alive: object = None
    said: Health | None = None
    while True:
        hint.clear()
        health = await look()
        now = clock.now()
        if health.state == "ready":
            return health
        if health.state == "failed":
            raise EngineStartFailed(f"the engine is up but not well: {health.detail}")
        if now - felt >= LONGEST or now - progressed >= stall:
            # looks are dense at first, and whoever reads /proc for this takes longer than the pause between two
            felt, alive = now, signs_of_life()
        sign = (alive, health.progress)
        if sign != life:
            life, progressed = sign, now
        if health != said:
            said = health
            on_progress(health)
        if now - progressed >= stall:
            raise EngineTimeout(
                f"no sign of progress for {stall:g} s while loading (load_stall); "
                f"last health: {health.detail or health.state}"
            )
        if now - began >= cap:
            raise EngineTimeout(
                f"not ready after {cap:g} s (load_cap); last health: {health.detail or health.state}"
            )
        await pause(next_look(now - began), clock, hint)


async def pause(seconds: float, clock: Clock, hint: asyncio.Event) -> None:
    """Sleep for ``seconds``, but wake for a hint."""
    sleep = asyncio.ensure_future(clock.sleep(seconds))
    wake = asyncio.ensure_future(hint.wait())
    try:
        await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleep.cancel()
        wake.cancel()
