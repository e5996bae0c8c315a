"""Sleep, pause and wake in vLLM's way: memory goes back, the process and its address stay.

Knows: what is asleep, and what happens to memory, slots and running requests on the way. Does not know: HTTP. What runs
when it is told to sleep or pause is ended (vLLM's mode ``abort``), ends first (``wait``), or stands still (``keep``);
those that wait for a slot, and those that come later, wait until it is awake. A client that leaves does not stop what
it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from enginery import EngineBusy
from enginery_mock.devices import Ledger
from enginery_mock.flags import ServerConfig
from enginery_mock.halting import Halts
from enginery_mock.slots import Slots

__all__ = ["MODES", "PARTS", "Sleeper"]

PARTS = frozenset({"weights", "kv_cache", "scheduling"})
"""What vLLM lets one wake by name (``tags``); it is awake when all are."""

PAUSED = frozenset({"scheduling"})
"""What is asleep of one that is paused, or asleep at level 0."""

MODES = frozenset({"abort", "wait", "keep"})


class Sleeper:
    """Puts one mock to sleep and wakes it; one change at a time, in the order asked for."""

    def __init__(self, config: ServerConfig, slots: Slots, halts: Halts, ledger: Ledger) -> None:
        self._config = config
        self._slots = slots
        self._halts = halts
        self._ledger = ledger
        self._asleep: set[str] = set()
        self._turn = asyncio.Lock()

    @property
    def is_sleeping(self) -> bool:
        """From the end of `sleep` or `pause` to the end of `wake_up` or `resume`; vLLM's does not tell them apart."""
        return bool(self._asleep)

    async def pause(self, mode: str) -> None:
        """Returns when nothing runs, or all stands still."""
        await asyncio.shield(asyncio.create_task(self._pause(mode)))

    async def resume(self) -> None:
        """Undo `pause`. Raises `EngineBusy` while memory is missing."""
        async with self._turn:
            if not self._asleep <= PAUSED:
                raise EngineBusy("the mock engine is asleep: wake it up first")
            self._run()

    async def sleep(self, level: int, mode: str) -> None:
        """Returns when nothing runs and the memory is back; level 0 keeps the memory."""
        change = asyncio.create_task(self._fall_asleep(level, mode))
        await asyncio.shield(change)

    async def wake_up(self, parts: Collection[str] = PARTS) -> None:
        """Returns when these are awake; with the last one the waiting requests go on."""
        change = asyncio.create_task(self._awake(parts))
        await asyncio.shield(change)

    async def _pause(self, mode: str) -> None:
        async with self._turn:
            await self._halt(mode)
            self._asleep |= PAUSED

    async def _fall_asleep(self, level: int, mode: str) -> None:
        async with self._turn:
            await self._halt(mode)
            await asyncio.sleep(self._config.sleep_ms / 1000)
            if level > 0:
                self._ledger.hold(self._config.memory_asleep or {})
            self._asleep |= PARTS if level > 0 else PAUSED

    async def _halt(self, mode: str) -> None:
        self._slots.pause()
        if mode == "keep":
            self._halts.freeze()
            return
        self._halts.thaw()
        if mode == "abort":
            self._halts.end_all()
        await self._slots.idle()

    async def _awake(self, parts: Collection[str]) -> None:
        async with self._turn:
            if not self._asleep:
                return
            self._ledger.hold(self._config.memory or {})
            await asyncio.sleep(self._config.wake_ms / 1000)
            self._asleep.difference_update(parts)
            if self._asleep <= PAUSED:  # nothing is left that would have to be loaded
                self._run()

    def _run(self) -> None:
        self._asleep.clear()
        self._halts.thaw()
        self._slots.resume()
