"""Sleep and wake in vLLM's way: memory goes back, the process and its address stay.

Knows: what is asleep, and what happens to memory and slots on the way. Does not know: HTTP. Requests that
run when it is told to sleep end first (vLLM's mode ``wait``); those that come later wait in line until it
is awake. A client that leaves does not stop what it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from enginery_mock.devices import Ledger
from enginery_mock.flags import ServerConfig
from enginery_mock.slots import Slots

__all__ = ["MODES", "PARTS", "Sleeper"]

PARTS = frozenset({"weights", "kv_cache", "scheduling"})
"""What vLLM lets one wake by name (``tags``); it is awake when all are."""

MODES = frozenset({"abort", "wait", "keep"})


class Sleeper:
    """Puts one mock to sleep and wakes it; one change at a time, in the order asked for."""

    def __init__(self, config: ServerConfig, slots: Slots, ledger: Ledger) -> None:
        self._config = config
        self._slots = slots
        self._ledger = ledger
        self._asleep: set[str] = set()
        self._turn = asyncio.Lock()

    @property
    def is_sleeping(self) -> bool:
        """From the end of `sleep` to the end of `wake_up`."""
        return bool(self._asleep)

    async def sleep(self, level: int) -> None:
        """Returns when nothing runs and the memory is back; level 0 keeps the memory."""
        change = asyncio.create_task(self._fall_asleep(level))
        await asyncio.shield(change)

    async def wake_up(self, parts: Collection[str] = PARTS) -> None:
        """Returns when these are awake; with the last one the waiting requests go on."""
        change = asyncio.create_task(self._awake(parts))
        await asyncio.shield(change)

    async def _fall_asleep(self, level: int) -> None:
        async with self._turn:
            await self._slots.pause()
            await asyncio.sleep(self._config.sleep_ms / 1000)
            if level > 0:
                self._ledger.hold(self._config.memory_asleep or {})
            self._asleep = set(PARTS)

    async def _awake(self, parts: Collection[str]) -> None:
        async with self._turn:
            if not self._asleep:
                return
            self._ledger.hold(self._config.memory or {})
            await asyncio.sleep(self._config.wake_ms / 1000)
            self._asleep.difference_update(parts)
            if self._asleep <= {"scheduling"}:  # nothing is left that would have to be loaded
                self._asleep.clear()
                self._slots.resume()
