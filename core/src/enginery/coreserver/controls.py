"""Sleep, wake, pause, abort and the like over HTTP, with vLLM's paths, parameters and replies.

Knows: the query parameters and what the core is asked. Does not know: access, or what becomes of requests meanwhile.
Where vLLM 0.32 answers otherwise is in docs/vllm-differences.md.
"""

from __future__ import annotations

import math
from typing import Any, cast

from aiohttp import web

from enginery.api.body import decode_body
from enginery.coreserver.delivery import Delivery
from enginery.enginecore.async_mp import AsyncMPClient
from enginery.enginecore.messages import PauseMode
from enginery.errors import InvalidRequest

__all__ = ["Controls"]

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Controls:
    """The routes of one core; ``is_sleeping`` is what the core said last."""

    def __init__(self, client: AsyncMPClient, delivery: Delivery) -> None:
        self._client = client
        self._delivery = delivery
        self.is_sleeping = False

    def routes(self) -> list[web.RouteDef]:
        """For an application."""
        return [
            web.post("/sleep", self.sleep),
            web.post("/wake_up", self.wake_up),
            web.get("/is_sleeping", self.asked),
            web.post("/pause", self.pause),
            web.post("/resume", self.resume),
            web.get("/is_paused", self.asked_pause),
            web.post("/abort_requests", self.abort_requests),
            web.post("/reset_prefix_cache", self.reset_prefix_cache),
        ]

    async def sleep(self, request: web.Request) -> web.Response:
        """``?level=1&mode=abort``; answered when the memory is back, however long requests are waited for."""
        level = request.query.get("level", "1")
        if level not in {"0", "1", "2"}:
            raise InvalidRequest(f"level must be 0, 1 or 2, got {level!r}", param="level")
        args = {"level": int(level), "mode": _mode(request)}
        await self._client.call_utility_async("sleep", args, math.inf)
        await self._look()
        return web.json_response({"status": "sleeping", "level": int(level)})

    async def wake_up(self, request: web.Request) -> web.Response:
        """``?tags=weights&tags=kv_cache``; none is all."""
        tags = request.query.getall("tags", [])
        awake = await self._client.call_utility_async("wake_up", {"tags": tags or None}, math.inf)
        await self._look()
        return web.json_response({"status": "awake" if awake else "sleeping", "tags": tags or None})

    async def asked(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        """Asks the core."""
        await self._look()
        return web.json_response({"is_sleeping": self.is_sleeping})

    async def pause(self, request: web.Request) -> web.Response:
        """``?mode=abort&clear_cache=true``; answered when nothing runs any more, or stands still (``keep``)."""
        args = {
            "mode": _mode(request),
            "clear_cache": _flag(request, "clear_cache", default="true"),
        }
        await self._client.call_utility_async("pause", args, math.inf)
        await self._look()
        return web.json_response({"status": "paused"})

    async def resume(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        """After `pause`; refused while memory is missing."""
        await self._client.resume_async()
        await self._look()
        return web.json_response({"status": "resumed"})

    async def asked_pause(self, request: web.Request) -> web.Response:  # noqa: ARG002  # aiohttp's signature
        """Asks the core."""
        paused = await self._client.call_utility_async("is_paused")
        return web.json_response({"is_paused": paused})

    async def abort_requests(self, request: web.Request) -> web.Response:
        """``{"request_ids": [...]}``, the ids of replies; none is all. Unknown ones are ignored, and not counted."""
        ids = decode_body(await request.read()).get("request_ids")
        if ids is not None and not (isinstance(ids, list) and all(isinstance(i, str) for i in ids)):
            raise InvalidRequest("request_ids must be a list of strings", param="request_ids")
        ended = await self._client.abort_requests_async(ids or self._delivery.ids())
        return web.json_response({"status": "aborted", "aborted": len(ended)})

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        """``?reset_running_requests=false&reset_external=false``; vLLM's earlier name was ``reset_connector``."""
        outside = _flag(request, "reset_external") or _flag(request, "reset_connector")
        done: Any = await self._client.reset_prefix_cache_async(
            _flag(request, "reset_running_requests"), outside
        )
        return web.json_response({"success": done})

    async def _look(self) -> None:
        self.is_sleeping = await self._client.is_sleeping_async()


def _mode(request: web.Request) -> PauseMode:
    mode = request.query.get("mode", "abort")
    if mode not in {"abort", "wait", "keep"}:
        raise InvalidRequest(f"mode must be abort, wait or keep, got {mode!r}", param="mode")
    return cast("PauseMode", mode)


def _flag(request: web.Request, name: str, default: str = "false") -> bool:
    value = request.query.get(name, default).lower()
    if value not in _BOOLEANS:
        raise InvalidRequest(f"{name} must be true or false, got {value!r}", param=name)
    return _BOOLEANS[value]
