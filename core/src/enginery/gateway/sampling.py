"""What is measured now and then: how late the event loop is, how much memory there is.

Knows: when. Does not know: who reads it. Memory is measured only while somebody listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from enginery.engine.inspection import Inspection
from enginery.engine.status import InstanceStatus

__all__ = ["Sampler"]

LAG_EVERY = 0.5
MEMORY_EVERY = 5.0


class Sampler:
    """Measures until it is stopped.

    Args:
        inspection, status: what is looked at.
        late: told by how many seconds the loop was late.
        lag_every, memory_every: seconds between two looks.
    """

    def __init__(
        self,
        inspection: Inspection,
        status: Callable[[], Sequence[InstanceStatus]],
        late: Callable[[float], None],
        *,
        lag_every: float = LAG_EVERY,
        memory_every: float = MEMORY_EVERY,
    ) -> None:
        self._inspection = inspection
        self._status = status
        self._late = late
        self._lag_every = lag_every
        self._memory_every = memory_every
        self._timer: asyncio.TimerHandle | None = None
        self._memory: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        loop = asyncio.get_running_loop()
        self._expect(loop)
        self._memory = loop.create_task(self._sample(), name="sample memory")

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._memory is not None:
            self._memory.cancel()

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._lag_every
        self._timer = loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._late(loop.time() - due)
        self._expect(loop)

    async def _sample(self) -> None:
        while True:
            if self._inspection.listening:
                free = await self._inspection.free_memory()
                held = {row.id: dict(row.memory) for row in self._status() if row.memory}
                self._inspection.publish("memory.sampled", None, None, free=dict(free), held=held)
            await asyncio.sleep(self._memory_every)
