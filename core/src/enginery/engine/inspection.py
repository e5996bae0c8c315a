"""What can be seen of the engine room from outside: queues, memory, logs, running engines, events.

Knows: where each of these is. Changes nothing, and nobody may act on what it shows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from enginery.engine.dispatch import Dispatcher
from enginery.engine.events import EngineEvent, EventHub
from enginery.engine.instance import EngineInstance
from enginery.engine.launchers import EngineHandle, Launcher
from enginery.lifecycle import State
from enginery.values import RunningEngine, Variant

__all__ = ["Inspection"]

LOOK_FOR_STARTS = 0.2
"""Seconds between two looks for a new process, while somebody follows a log."""

_SERVING = frozenset({State.READY, State.DRAINING})


class Inspection:
    """One manager's; see `EngineManager.inspection`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        hub: EventHub,
        launcher: Launcher,
        engine_of: Callable[[EngineInstance], RunningEngine],
    ) -> None:
        self._dispatcher = dispatcher
        self._hub = hub
        self._launcher = launcher
        self._engine_of = engine_of

    @property
    def listening(self) -> bool:
        """False when nobody would hear of a single request."""
        return self._hub.listening

    def publish(self, type_: str, model: str | None, variant: str | None, **data: Any) -> None:
        """Tell everybody who listens; for events that are seen elsewhere."""
        self._hub.publish(type_, model, variant, **data)

    def subscribe(self, *only: str) -> AsyncIterator[EngineEvent]:
        """Events whose type begins with one of ``only``, from this call on; without any: all of them."""
        return self._hub.subscribe(*only)

    def waiting(self) -> Counter[str]:
        """How many requests wait, by model."""
        return self._dispatcher.waiting()

    def running(self) -> list[RunningEngine]:
        """The engines of ours that serve now; servers that somebody else runs are not among them."""
        return [
            self._engine_of(self._dispatcher.instances[view.variant.id])
            for view in self._dispatcher.scheduler.instances()
            if view.state in _SERVING and not view.variant.attached
        ]

    async def free_memory(self) -> Mapping[str, int]:
        """Free bytes per device, as far as they can be measured."""
        return await self._launcher.free_memory()

    def log_tail(self, variants: tuple[Variant, ...], n: int) -> list[str]:
        """The last ``n`` lines of each of these engines' present or last process."""
        instances = self._dispatcher.instances
        return [line for v in variants if v.id in instances for line in instances[v.id].log_tail(n)]

    async def follow_log(self, variants: tuple[Variant, ...], n: int) -> AsyncGenerator[str]:
        """The last ``n`` lines of each, then what they print, restarts included, until `shutdown`."""
        lines: asyncio.Queue[str] = asyncio.Queue(100)
        followed: dict[str, EngineHandle] = {}
        pumps: set[asyncio.Task[None]] = set()
        try:
            while not self._dispatcher.closed:
                for variant in variants:
                    instance = self._dispatcher.instances.get(variant.id)
                    handle = None if instance is None else instance.handle
                    if handle is not None and followed.get(variant.id) is not handle:
                        followed[variant.id] = handle
                        pump = asyncio.create_task(_pump(handle, n, lines), name="follow a log")
                        pumps.add(pump)
                        pump.add_done_callback(pumps.discard)
                try:
                    async with asyncio.timeout(LOOK_FOR_STARTS):
                        yield await lines.get()
                except TimeoutError:
                    continue
                while not lines.empty():
                    yield lines.get_nowait()
        finally:
            for pump in list(pumps):
                pump.cancel()


async def _pump(handle: EngineHandle, tail: int, lines: asyncio.Queue[str]) -> None:
    async with aclosing(handle.follow(tail)) as new:
        async for line in new:
            await lines.put(line)
