"""Waiting for an engine with the client on the line.

Knows: what a client that streams hears while its model loads or swaps: nothing for `HEARTBEAT` seconds, so
that an early error keeps its status; then a head and comments, which clients skip. One that asks for it
(``x-enginery-progress: 1``) hears at once, and with words, how far it is. Does not know: who is next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine

from enginery.api.sse import encode_comment
from enginery.engine.lease import Lease
from enginery.engine.manager import EngineManager, Route
from enginery.gateway.answers import StreamAnswer

__all__ = ["HEARTBEAT", "hold"]

HEARTBEAT = 10.0
"""Seconds between two signs of life."""

PROGRESS_EVERY = 0.25
"""Seconds between two looks at how far a load is."""

_PHASES = {"starting": "loading", "waking": "waking"}

_KEEP_ALIVE = encode_comment("keep-alive")


async def hold(
    waiting: Coroutine[None, None, Lease],
    answer: StreamAnswer,
    manager: EngineManager,
    route: Route,
    *,
    progress: bool,
    heartbeat: float = HEARTBEAT,
) -> Lease:
    """The lease that ``waiting`` comes back with; meanwhile ``answer`` gets signs of life.

    Cancelled, it leaves nothing behind, neither request nor lease.

    Raises:
        EngineryError: what ``waiting`` raises.
    """
    task = asyncio.ensure_future(waiting)
    pause = min(PROGRESS_EVERY, heartbeat) if progress else heartbeat
    loop, told = asyncio.get_running_loop(), b""
    spoke = loop.time()
    try:
        while not task.done():
            said = _progress(manager, route) if progress else b""
            if said != told or loop.time() - spoke >= heartbeat:
                answer.write(said or _KEEP_ALIVE)
                told, spoke = said, loop.time()
            await asyncio.wait({task}, timeout=pause)
        return task.result()
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is None:
            task.result().release("client_gone")
        raise


def _progress(manager: EngineManager, route: Route) -> bytes:
    """How far the wanted engine is, as a comment: phase, requests in the queue, fraction of the load."""
    phase, queued, fraction = "waiting", 0, None
    wanted = {variant.id for variant in route.variants}
    for row in manager.status():
        if row.id in wanted:
            phase = _PHASES.get(row.state, "waiting")
            queued, fraction = row.queued, manager.load_progress(row.id)
    said = {"phase": phase, "position": queued, "fraction": fraction}
    return encode_comment(
        "enginery " + json.dumps({k: v for k, v in said.items() if v is not None})
    )
