"""Sleeping and waking: vLLM's levels, and what it wants to be told after each.

Knows: the routes, their order, and how they prove who asks. Does not know: when an engine should sleep.

Level 0 stops the scheduler and keeps all memory; requests wait. Level 1 moves the weights to the machine's memory and
drops the KV cache. Level 2 drops both: on waking, memory is taken for the weights, they are read from the disk again, then
the KV cache gets its memory. vLLM does not say how deeply it sleeps, so that is remembered here, by the engine's key.
Requests that arrive meanwhile wait inside vLLM. Source: ``vllm/entrypoints/serve/dev/sleep/api_router.py`` and
docs/features/sleep_mode.md of 0.32.

Levels 1 and 2 need ``--enable-sleep-mode``, with which vLLM does not start on a CPU; level 0 works everywhere.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from enginery import BadEngineReply, RunningEngine, Variant
from enginery_vllm.options import options_of
from enginery_vllm.serving.key_guard import PROOF, proof_of

__all__ = ["Sleeping", "levels_of"]

RELOAD_TIMEOUT = 600.0
"""Seconds for reading the weights again; the hook's own deadline may be shorter."""


def levels_of(variant: Variant) -> tuple[int, ...]:
    """The levels that ``variant`` has, by its option ``sleep``."""
    sleep = options_of(variant.options).sleep
    if sleep == "pause":
        return (0,)
    return (0, 1, 2) if sleep else ()


class Sleeping:
    """Puts engines to sleep and wakes them; remembers whose weights are gone."""

    def __init__(self) -> None:
        self._without_weights: set[tuple[str, str | None]] = set()

    async def sleep(self, engine: RunningEngine, level: int) -> None:
        """Returns when the memory is back. Requests that vLLM still works on are aborted.

        Raises:
            BadEngineReply: vLLM refused.
        """
        await _command(engine, "/sleep", level=str(level))
        if level >= 2 and not options_of(engine.variant.options).in_process:
            self._without_weights.add(_id(engine))  # a backend reads its own again by itself

    async def wake_up(self, engine: RunningEngine) -> None:
        """Returns when the engine generates again.

        Raises:
            BadEngineReply: vLLM refused, or still sleeps afterwards.
        """
        if _id(engine) in self._without_weights:
            await _command(engine, "/wake_up", tags="weights")
            await _command(engine, "/collective_rpc", {"method": "reload_weights"})
        said = await _command(engine, "/wake_up")
        if said.get("status", "awake") != "awake":
            raise BadEngineReply(f"{engine.variant.id}: vLLM was woken, but says {said}")
        self._without_weights.discard(_id(engine))


async def _command(
    engine: RunningEngine, path: str, body: dict[str, Any] | None = None, **query: str
) -> dict[str, Any]:
    if engine.endpoint.api_key is not None:
        query[PROOF] = proof_of(engine.endpoint.api_key)
    asked = f"{path}?{urlencode(query)}" if query else path
    reply = await engine.post(asked, body or {}, timeout=RELOAD_TIMEOUT)
    if reply.status != 200:
        text = reply.body[:500].decode("utf-8", "replace")
        raise BadEngineReply(f"{engine.variant.id}: POST {path}: HTTP {reply.status}: {text}")
    try:
        said = reply.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _id(engine: RunningEngine) -> tuple[str, str | None]:
    """One start of one engine: each has a key of its own."""
    return engine.endpoint.base_url, engine.endpoint.api_key
