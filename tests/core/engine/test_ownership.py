"""Whose server it is, where the process tree cannot tell: real servers, real squatters, the per-spawn key."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from enginery import EngineManager, EngineStartFailed, Settings
from enginery.engine.endpoints import free_endpoint
from enginery.engine.launchers import LocalLauncher
from enginery.engine.ownership import Whose, told_by_key
from enginery.engine.transport import HttpTransport
from enginery.values import Endpoint
from support.blind_machine import BlindLauncher

pytestmark = pytest.mark.both_loops

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
SERVES_BLINDLY = """
import http.server, sys
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *words):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Server).serve_forever()
"""


@asynccontextmanager
async def server(answer: Answer, endpoint: Endpoint | None = None):
    """A server that answers everything with ``answer``."""
    endpoint = endpoint or free_endpoint()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, endpoint.host, endpoint.port).start()
    try:
        yield endpoint
    finally:
        await runner.cleanup()


def key_of(request: web.Request) -> str | None:
    return request.headers.get("Authorization", "").removeprefix("Bearer ") or None


async def ask_with_key(answer: Answer, endpoint: Endpoint | None = None) -> Whose:
    transport = HttpTransport()
    async with server(answer, endpoint) as at:
        told = await told_by_key(at, transport)
    await transport.close()
    return told


def always(status: int) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text="{}")

    return answer


async def test_a_server_that_lets_in_who_has_the_key_and_nobody_else_is_ours():
    endpoint = free_endpoint()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if key_of(request) == endpoint.api_key else 401)

    assert await ask_with_key(answer, endpoint) is Whose.OURS


async def test_one_that_shows_its_models_to_everybody_is_asked_for_what_needs_the_key():
    endpoint, asked = free_endpoint(), []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/v1/models":
            return web.Response()
        return web.Response(status=400 if key_of(request) == endpoint.api_key else 403)

    assert await ask_with_key(answer, endpoint) is Whose.OURS
    assert set(asked) == {"/v1/models", "/v1/chat/completions"}


@pytest.mark.parametrize("status", [200, 404, 400, 302])
async def test_one_that_answers_everybody_alike_has_proved_nothing(status):
    assert await ask_with_key(always(status)) is Whose.UNPROVEN


@pytest.mark.parametrize("status", [401, 403])
async def test_one_that_turns_our_key_away_is_somebody_elses(status):
    assert await ask_with_key(always(status)) is Whose.STRANGERS


async def test_one_that_lets_in_whoever_has_any_key_is_somebody_elses():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if key_of(request) else 401)

    assert await ask_with_key(answer) is Whose.STRANGERS


async def test_one_that_still_loads_or_is_not_there_says_nothing_yet():
    assert await ask_with_key(always(503)) is Whose.UNKNOWN
    transport = HttpTransport()
    assert await told_by_key(free_endpoint(), transport) is Whose.UNKNOWN
    await transport.close()


async def test_one_that_hangs_up_says_nothing_yet():
    async def answer(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    assert await ask_with_key(answer) is Whose.UNKNOWN


async def test_the_right_key_is_not_to_be_told_by_its_place_or_its_length():
    endpoint, orders, sizes = free_endpoint(), [], set()

    async def answer(request: web.Request) -> web.Response:
        orders.append(key_of(request))
        return web.Response(status=401)

    transport = HttpTransport()
    async with server(answer, endpoint) as at:
        for _ in range(64):
            await told_by_key(at, transport)
    await transport.close()
    rounds = [orders[i : i + 5] for i in range(0, len(orders), 5)]
    assert all(round_.count(endpoint.api_key) == 1 for round_ in rounds)
    places = {round_.index(endpoint.api_key) for round_ in rounds}
    sizes = {len(key) for key in orders if key is not None}
    assert len(places) > 1  # that a fair shuffle fails here has a chance of 5 to the power of -63
    assert sizes == {len(endpoint.api_key or "")}


# -- under the manager, on a machine that cannot tell ----------------------------------------------


def manager_of(launcher: LocalLauncher, model: dict[str, Any], **defaults: Any) -> EngineManager:
    defaults = {"min_residency": 0, "shutdown_timeout": 0.5, **defaults}
    return EngineManager(Settings(models={"m": model}, defaults=defaults), launchers=[launcher])


async def ask(client) -> int:
    async with (
        client.open_session() as session,
        await client.forward_request(session, "", HELLO) as response,
    ):
        return response.status


async def test_a_real_engine_proves_itself_by_its_key(caplog):
    launcher = BlindLauncher()
    async with manager_of(launcher, {"engine": "mock", "options": {"load_ms": 100}}) as manager:
        assert await ask(await manager.ensure_engine("m")) == 200
    assert len(launcher.reserved) == 1
    assert not [
        r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "enginery.engine"
    ]


async def test_an_engine_that_lies_on_health_is_not_ready_before_it_knows_its_key():
    options = {"lie_on_health": "loading", "load_ms": 300}
    async with manager_of(BlindLauncher(), {"engine": "mock", "options": options}) as manager:
        assert await ask(await manager.ensure_engine("m")) == 200


@pytest.mark.parametrize("status", [200, 401, 404])
async def test_a_squatter_never_gets_a_request_and_the_engine_gets_another_port(status):
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(status=200 if request.path == "/health" else status)

    async with server(answer) as taken:
        launcher = BlindLauncher(taken)
        async with manager_of(launcher, {"engine": "mock"}) as manager:
            client = await manager.ensure_engine("m")
            assert client.base_url != taken.base_url
            assert await ask(client) == 200
    assert asked
    assert not any(b"hello" in body for body in asked)


async def test_a_squatter_at_every_port_fails_the_start():
    async with server(always(200)) as taken:
        launcher = BlindLauncher(*[taken] * 5)
        async with manager_of(launcher, {"engine": "mock"}) as manager:
            with pytest.raises(EngineStartFailed, match="served by another program"):
                await manager.ensure_engine("m")


async def test_an_engine_that_nobody_gave_a_key_is_believed_with_a_warning(caplog, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SERVES_BLINDLY)
    args = ["-I", str(script), "--port", "{port}"]
    model = {"engine": "openai", "binary": sys.executable, "args": args}
    async with manager_of(BlindLauncher(), model, load_stall=30) as manager:
        assert await ask(await manager.ensure_engine("m")) == 200
    said = [record.message for record in caplog.records if "nothing proves" in record.message]
    assert len(said) == 1
    assert said[0].startswith("m/default: ")


async def test_a_blind_server_that_was_told_the_key_is_somebody_elses(tmp_path):
    """``binary`` alone: the plugin knows the program, and gave it the key."""
    script = tmp_path / "blind"
    script.write_text(f"#!{sys.executable} -I\n{SERVES_BLINDLY}")
    script.chmod(0o755)
    async with manager_of(BlindLauncher(), {"engine": "mock", "binary": str(script)}) as manager:
        with pytest.raises(EngineStartFailed, match="served by another program"):
            await manager.ensure_engine("m")
