"""Sleep, wake and the like over HTTP, with vLLM's paths, parameters and replies.

Knows: the query parameters and what the core is asked. Does not know: access, or what becomes of requests meanwhile.
"""

from __future__ import annotations

import math
from typing import Any, cast

from aiohttp import web

from enginery.enginecore.async_mp import AsyncMPClient
from enginery.enginecore.messages import PauseMode
from enginery.errors import InvalidRequest

__all__ = ["Controls"]

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Controls:
    """The routes of one core; ``is_sleeping`` is what the core said last."""

    def __init__(self, client: AsyncMPClient) -> None:
        self._client = client
        self.is_sleeping = False

    def routes(self) -> list[web.RouteDef]:
        """For an application."""
        return [
            web.post("/sleep", self.sleep),
            web.post("/wake_up", self.wake_up),
            web.get("/is_sleeping", self.asked),
            web.post("/reset_prefix_cache", self.reset_prefix_cache),
        ]

    async def sleep(self, request: web.Request) -> web.Response:
        """``?level=1&mode=abort``; answered when the memory is back, however long requests are waited for."""
        level = request.query.get("level", "1")
        if level not in {"0", "1", "2"}:
            raise InvalidRequest(f"level must be 0, 1 or 2, got {level!r}", param="level")
        mode = request.query.get("mode", "abort")
        if mode not in {"abort", "wait", "keep"}:
            raise InvalidRequest(f"mode must be abort, wait or keep, got {mode!r}", param="mode")
        await self._client.call_utility_async(
            "sleep", {"level": int(level), "mode": cast("PauseMode", mode)}, math.inf
        )
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

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        """``?reset_running_requests=false&reset_connector=false``."""
        done: Any = await self._client.reset_prefix_cache_async(
            _flag(request, "reset_running_requests"), _flag(request, "reset_connector")
        )
        return web.json_response({"success": done})

    async def _look(self) -> None:
        self.is_sleeping = await self._client.is_sleeping_async()


def _flag(request: web.Request, name: str) -> bool:
    value = request.query.get(name, "false").lower()
    if value not in _BOOLEANS:
        raise InvalidRequest(f"{name} must be true or false, got {value!r}", param=name)
    return _BOOLEANS[value]
