"""The proxy that anybody writes first: ``python -m benchmarks.naive_proxy PORT ENGINE_PORT``.

aiohttp on both sides, the body decoded and encoded again, no care about buffers. It is what our own
gateway must be far better than; there is nothing else in it to learn from.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

__all__ = ["application"]

BODY_LIMIT = 64 * 1024 * 1024
SESSION = web.AppKey("session", aiohttp.ClientSession)
ENGINE = web.AppKey("engine", str)


def application(engine: str) -> web.Application:
    """Forward every POST to the base URL ``engine``."""
    app = web.Application(client_max_size=BODY_LIMIT)
    app[ENGINE] = engine
    app.router.add_post("/{path:.*}", _forward)
    app.cleanup_ctx.append(_session)
    return app


async def _session(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as session:
        app[SESSION] = session
        yield


async def _forward(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    url = request.app[ENGINE] + request.path
    async with request.app[SESSION].post(url, json=body) as upstream:
        headers = {"Content-Type": upstream.headers["Content-Type"]}
        if "event-stream" not in headers["Content-Type"]:
            return web.Response(status=upstream.status, body=await upstream.read(), headers=headers)
        response = web.StreamResponse(status=upstream.status, headers=headers)
        await response.prepare(request)
        async for data in upstream.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


if __name__ == "__main__":
    port, engine_port = map(int, sys.argv[1:])
    web.run_app(
        application(f"http://127.0.0.1:{engine_port}"),
        host="127.0.0.1",
        port=port,
        access_log=None,
        print=None,
    )
