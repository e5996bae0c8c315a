"""One token from an engine that fell silent: the proof that it still generates.

Knows: the smallest request of each route, and that it takes the plugin's way like any other. Does not know:
what becomes of an engine that fails (`suspicion`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from enginery.engine.clock import Clock
from enginery.errors import BadEngineReply, EngineryError, EngineTimeout
from enginery.plugins import EngineHooks
from enginery.values import EngineRequest, JSONObject, RunningEngine

__all__ = ["examine"]

AGAIN = 0.5
"""Seconds until an engine that has no room now is asked again."""

_SMALLEST: dict[str, JSONObject] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/rerank": {"query": "Hi", "documents": ["Hi"]},
}


async def examine(hooks: EngineHooks, engine: RunningEngine, patience: float, clock: Clock) -> None:
    """Returns when the engine has generated within ``patience`` seconds, by the wall.

    A refusal with a 4xx is no proof either way, so the next route is tried; an engine that refuses all of
    them does answer, which has to do.

    Raises:
        EngineTimeout: nothing came, or it had no room all the time.
        EngineError: it hung up, or answered with an error of its own.
    """
    name = engine.variant.id
    try:
        async with asyncio.timeout(patience):
            for request in _questions(hooks, engine):
                if await _answers(request, engine, patience, clock):
                    return
    except TimeoutError as error:  # the transport's own, too
        raise EngineTimeout(f"{name} did not generate one token in {patience:g} s") from error


async def _answers(
    request: EngineRequest, engine: RunningEngine, patience: float, clock: Clock
) -> bool:
    while True:
        reply = await engine.post(request.path, request.body, timeout=patience)
        if reply.status < 400:
            return True
        if reply.status not in {429, 503}:
            break
        await clock.sleep(AGAIN)
    if reply.status >= 500:
        raise BadEngineReply(
            f"{engine.variant.id} answered a request for one token with HTTP {reply.status}"
        )
    return False


def _questions(hooks: EngineHooks, engine: RunningEngine) -> Iterator[EngineRequest]:
    variant = engine.variant
    supported = hooks.get_supported_endpoints(variant)
    for path, smallest in _SMALLEST.items():
        if path in supported:
            request = EngineRequest(path, {"model": variant.body_model, **smallest}, stream=False)
            try:
                changed = hooks.transform_request(request, variant)
            except EngineryError:
                changed = None  # the plugin's failure is not the engine's
            yield request if changed is None else EngineRequest(path, changed, stream=False)
