"""What makes a served gateway read its settings again: SIGHUP, and its file, where that is watched.

Knows: signals, the file, and the supervisor that wants to hear of it. Does not know: what a reload does
(`enginery.gateway.reloading`); whether one was good is told by its log line and its event.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

from enginery.cli.log_secrets import hide_in_logs
from enginery.cli.notify import Notifier
from enginery.cli.watching import file_changes
from enginery.errors import EngineryError
from enginery.gateway import Gateway
from enginery.settings.secrets import secrets_of

__all__ = ["reloads"]


@asynccontextmanager
async def reloads(
    gateway: Gateway, notifier: Notifier, status: str, watched: Path | None = None
) -> AsyncIterator[None]:
    """While inside, SIGHUP and changes of ``watched`` make ``gateway`` read its settings again.

    Args:
        gateway: serves already.
        notifier: is told that a reload begins, and ``status`` once it is over.
        status: a line for the supervisor.
        watched: a file; None: none is.
    """
    wanted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, wanted.set)
    tasks = [loop.create_task(_serve_reloads(gateway, notifier, status, wanted), name="reloads")]
    if watched is not None:
        tasks.append(loop.create_task(_watch(watched, wanted), name=f"watch {watched}"))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve_reloads(
    gateway: Gateway, notifier: Notifier, status: str, wanted: asyncio.Event
) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        notifier.reloading()
        known = secrets_of(gateway.manager.settings)
        with suppress(EngineryError):  # it is logged, and nothing has changed
            await gateway.reloading.reload()
        new = secrets_of(gateway.manager.settings) - known
        if new:
            hide_in_logs(new)
        notifier.ready(status)


async def _watch(file: Path, wanted: asyncio.Event) -> None:
    async with aclosing(file_changes(file)) as changes:
        async for _ in changes:
            wanted.set()
