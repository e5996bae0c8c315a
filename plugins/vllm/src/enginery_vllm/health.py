"""How a vLLM server is: starting, ready, asleep or failed.

Knows: what vLLM answers on its health routes, and when. Does not know: who asks, or how often.

vLLM listens only when its model is loaded, so before that nothing answers. ``/health`` is an empty 200, also while it
sleeps, and 503 when its engine core has died: then there is no way back, and the server ends by itself within 5 s. Source:
``vllm/entrypoints/serve/instrumentator/health.py`` and ``vllm/entrypoints/launchers/launcher.py`` of 0.32.
"""

from __future__ import annotations

from enginery import EngineUnreachable, Health, RunningEngine
from enginery_vllm.options import options_of

__all__ = ["check_health"]


async def check_health(engine: RunningEngine) -> Health:
    """One look; asks whether it sleeps only where it can.

    Raises:
        EngineTimeout: it took too long.
    """
    try:
        reply = await engine.get(engine.health_path)
        if reply.status == 503:
            return Health("failed", detail="vLLM's engine core has died")
        if reply.status != 200:
            return Health("failed", detail=f"{engine.health_path} answered HTTP {reply.status}")
        if options_of(engine.variant.options).sleep and await _sleeps(engine):
            return Health("asleep")
    except EngineUnreachable as error:
        return Health("starting", detail=str(error))
    return Health("ready")


async def _sleeps(engine: RunningEngine) -> bool:
    reply = await engine.get("/is_sleeping")
    if reply.status != 200:  # attached to a server without the development mode
        return False
    try:
        return reply.json()["is_sleeping"] is True
    except (ValueError, KeyError, TypeError):
        return False
