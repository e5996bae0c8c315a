"""Models that are loaded without anybody's request: at the start, and again when settings changed.

Knows: who is under way. Does not know: how anything is loaded. A failure is the log's: whoever asks for the model
later is told anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from enginery.errors import EngineryError

__all__ = ["Preloads"]

log = logging.getLogger("enginery.manager")


class Preloads:
    """One manager's.

    Args:
        load: makes a model's engine ready, or that of one variant of it.
    """

    def __init__(self, load: Callable[[str, str | None], Awaitable[None]]) -> None:
        self._load = load
        self._first: set[asyncio.Task[None]] = set()
        self._again: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> bool:
        """True while one of the start's has not been tried."""
        return bool(self._first)

    def begin(self, model: str) -> None:
        """At the start: the gateway is not ready before this was tried."""
        self._begin(self._first, model, None)

    def begin_again(self, model: str, variant: str | None = None) -> None:
        """Later: nobody waits for it."""
        self._begin(self._again, model, variant)

    async def ended(self) -> None:
        """Returns when none is under way."""
        tasks = self._first | self._again
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, among: set[asyncio.Task[None]], model: str, variant: str | None) -> None:
        task = asyncio.create_task(self._carry_out(model, variant), name=f"preload {model}")
        among.add(task)
        task.add_done_callback(among.discard)

    async def _carry_out(self, model: str, variant: str | None) -> None:
        try:
            await self._load(model, variant)
        except EngineryError as error:
            log.error("preload of %s failed: %s", model, error)  # noqa: TRY400  # the user's, no trace
