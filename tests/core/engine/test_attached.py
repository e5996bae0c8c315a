"""Servers that somebody else runs: real mock servers that the test starts, kills and starts again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from enginery import (
    EngineManager,
    EngineUnreachable,
    Settings,
)
from enginery.engine.attached import EVERY, AttachedInstance, AttachLauncher, next_look_in
from enginery.engine.endpoints import free_endpoint
from enginery.engine.instance import LoadLimits
from enginery.engine.seam import Event, Lost, Ready, Stopped
from enginery.engine.transport import HttpTransport
from enginery.errors import PluginError
from enginery.plugins import EngineHooks
from enginery.values import Health, Variant
from support.fake_engines import FakeLauncher, FakeRegistry

PATIENCE = 30.0
KEY = "an-upstream-key"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


class Server:
    """A mock server that is not ours to start or to stop: the test does."""

    def __init__(self) -> None:
        self.endpoint = free_endpoint()
        self.flags = ["--port", str(self.endpoint.port)]
        self.url = self.endpoint.base_url
        self.process: subprocess.Popen[str] | None = None

    def start(self, *flags: str) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "enginery_mock.server", *self.flags, *flags],
            env={**os.environ, "ENGINERY_MOCK_API_KEY": KEY},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert any("ready" in line for line in self.process.stdout)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


@pytest.fixture
def server():
    server = Server()
    yield server
    server.kill()


def settings(url: str, engine: str = "openai", **more: Any) -> Settings:
    models = {
        "far": {"engine": engine, "url": url, "api_key": KEY, **more},
        "near": {"engine": "mock", "ttl": 0},
    }
    defaults = {"min_residency": 0, "shutdown_timeout": 0.5, "ttl": "1ms"}
    return Settings(models=models, defaults=defaults)


@pytest.fixture
async def manager(server):
    async with EngineManager(settings(server.url)) as manager:
        yield manager


def states(manager: EngineManager) -> dict[str, str]:
    return {row.model: row.state for row in manager.status()}


async def ask(client, **more: Any) -> dict[str, Any]:
    async with (
        client.open_session() as session,
        await client.forward_request(session, "", {**HELLO, **more}) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


@pytest.mark.parametrize("engine", ["openai", "mock", "llama.cpp"])
async def test_it_works_with_every_engine_and_goes_on_running_when_we_leave(server, engine):
    server.start()
    async with EngineManager(settings(server.url, engine)) as manager:
        client = await manager.ensure_engine("far")
        assert client.base_url == server.url
        assert await client.check_health()
        assert (await ask(client))["object"] == "chat.completion"
        (row,) = manager.status()
        assert (row.pid, row.address) == (None, server.endpoint.address)
        assert (row.memory, row.restarts, row.ttl_left_s) == ({}, 0, None)
    assert server.runs


async def test_it_is_nobodys_victim_and_makes_none(server, manager):
    server.start()
    far, near = await manager.ensure_engine("far"), await manager.ensure_engine("near")
    assert states(manager) == {"far": "ready", "near": "ready"}
    await ask(far)
    await ask(near)


async def test_unloading_it_detaches_and_the_next_request_attaches_again(server, manager):
    server.start()
    client = await manager.ensure_engine("far")
    await manager.unload("far")
    assert states(manager) == {"far": "stopped"}
    assert server.runs
    await ask(client)
    assert states(manager) == {"far": "ready"}


async def test_one_that_does_not_run_is_told_at_once_and_used_once_it_does(server, manager):
    for _ in range(8):  # asking is no failure that would count against it
        with pytest.raises(
            EngineUnreachable, match="far/default does not serve at http://127"
        ) as caught:
            await manager.ensure_engine("far")
    assert caught.value.retry_after == 1.0
    (row,) = manager.status()
    assert (row.state, row.quarantined, row.address) == (
        "unreachable",
        False,
        server.endpoint.address,
    )
    assert row.last_error == caught.value.message
    server.start()
    await ask(await manager.ensure_engine("far"))


async def test_it_comes_back_by_itself(server, manager, eventually):
    server.start()
    client = await manager.ensure_engine("far")
    server.kill()
    with pytest.raises(EngineUnreachable):
        await ask(client)  # which has it looked at
    await eventually(lambda: states(manager) == {"far": "unreachable"}, timeout=PATIENCE)
    with pytest.raises(EngineUnreachable):
        await ask(client)
    server.start()
    await eventually(lambda: states(manager) == {"far": "ready"}, timeout=PATIENCE)
    await ask(client)


async def test_a_client_that_was_given_out_reaches_it_again_without_asking_for_it(server, manager):
    server.start()
    client = await manager.ensure_engine("far")
    for _ in range(3):
        server.kill()
        with pytest.raises(EngineUnreachable):
            await ask(client)
        server.start()
        await ask(client)


async def test_one_that_stops_answering_while_nobody_asks_is_noticed_when_somebody_ensures_it(
    server, manager
):
    server.start()
    await manager.ensure_engine("far")
    server.kill()
    with pytest.raises(EngineUnreachable):
        await manager.ensure_engine("far")
    assert states(manager) == {"far": "unreachable"}


async def test_a_wrong_key_is_told_as_what_the_server_says(server):
    server.start()
    async with EngineManager(
        settings(server.url, api_key="not-the-key", engine="llama.cpp")
    ) as manager:
        client = await manager.ensure_engine("far")  # its /health is open to everybody
        async with (
            client.open_session() as session,
            await client.forward_request(session, "", HELLO) as response,
        ):
            assert response.status == 401


async def test_shutdown_does_not_wait_for_one_out_of_reach(manager):
    with pytest.raises(EngineUnreachable):
        await manager.ensure_engine("far")
    await manager.shutdown()
    assert states(manager) == {"far": "stopped"}


async def test_a_server_on_a_unix_socket_is_attached_to_by_its_url(server):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        server.flags = ["--uds", str(Path(directory) / "far.sock")]
        server.start()
        url = f"http+unix://{directory.replace('/', '%2F')}%2Ffar.sock"
        async with EngineManager(settings(url)) as manager:
            await ask(await manager.ensure_engine("far"))
        server.kill()


async def test_a_prefix_the_key_and_the_servers_own_name_for_the_model_are_what_it_gets():
    seen: list[tuple[str, str | None, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        key = request.headers.get("Authorization")
        body = await request.json() if request.can_read_body else None
        seen.append((request.path, key, body and body["model"]))
        if request.path == "/openai/health":
            return web.Response(status=404)
        return web.json_response({"object": "chat.completion"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner, at = web.AppRunner(app, access_log=None, shutdown_timeout=0.01), free_endpoint()
    await runner.setup()
    await web.TCPSite(runner, at.host, at.port).start()
    try:
        far = settings(f"{at.base_url}/openai/v1/", upstream_model="Qwen/Qwen3-8B")
        async with EngineManager(far) as manager:
            await ask(await manager.ensure_engine("far"), model="far")
    finally:
        await runner.cleanup()
    assert seen == [
        ("/openai/health", f"Bearer {KEY}", None),
        ("/openai/v1/models", f"Bearer {KEY}", None),
        *[("/openai/health", f"Bearer {KEY}", None), ("/openai/v1/models", f"Bearer {KEY}", None)]
        * ((len(seen) - 3) // 2),
        ("/openai/v1/chat/completions", f"Bearer {KEY}", "Qwen/Qwen3-8B"),
    ]


async def test_an_engine_that_we_start_answers_to_its_upstream_name_too():
    models = {"m": {"engine": "mock", "upstream_model": "other"}}
    async with EngineManager(Settings(models=models)) as manager:
        client = await manager.ensure_engine("m")
        assert client.transform_request(HELLO)["model"] == "other"
        await ask(client)


async def test_nothing_is_launched_on_this_machine_for_it():
    launcher = FakeLauncher()
    launcher.looks = 1  # the fake plugin says "ready" at every second look
    far = Settings(models={"far": {"engine": "fake", "url": "http://127.0.0.1:1"}})
    async with EngineManager(far, launchers=[launcher], registry=FakeRegistry(launcher)) as manager:
        await manager.load("far")
        assert states(manager) == {"far": "ready"}
    assert launcher.launched == []


TLS = """
import asyncio, ssl, sys
from aiohttp import web
from enginery import EngineManager, EngineUnreachable, Settings
from enginery.engine.endpoints import free_endpoint

async def answer(request):
    return web.json_response({"path": request.path, "key": request.headers["Authorization"]})

async def main():
    app, at = web.Application(), free_endpoint()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    await web.TCPSite(runner, at.host, at.port, ssl_context=context).start()
    far = {"engine": "openai", "url": f"https://localhost:{at.port}/api", "api_key": "k"}
    async with EngineManager(Settings(models={"far": far})) as manager:
        try:
            client = await manager.ensure_engine("far")
            async with client.open_session() as session:
                async with await client.forward_request(session, "", {"prompt": "x"}) as response:
                    print(await response.text())
        except EngineUnreachable as error:
            print(error)
    await runner.cleanup()

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_is_spoken_with_servers_whose_certificate_is_trusted_and_with_no_others(tmp_path):
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*make.split(), *name, *files], check=True, capture_output=True)
    said = {
        trusted: subprocess.run(
            [sys.executable, "-c", TLS, certificate, key],
            env={**os.environ, "SSL_CERT_FILE": certificate if trusted else os.devnull},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for trusted in (True, False)
    }
    assert json.loads(said[True]) == {"path": "/api/v1/completions", "key": "Bearer k"}
    assert "certificate verify failed" in said[False]
    assert said[False].count("https://localhost") == 1


# -- the rhythm of looking -------------------------------------------------------------------------


def test_looks_follow_sooner_after_the_first_that_failed_and_never_later_than_always():
    assert [next_look_in(n) for n in range(8)] == [10.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert next_look_in(10**6) == EVERY


class Hooks(EngineHooks):
    """A plugin whose server is as the test says."""

    def __init__(self) -> None:
        super().__init__(object(), "fake", command_required=False)
        self.health: Health | Exception = Health("ready")
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.looks = 0

    async def check_health(self, engine, timeout=5.0) -> Health:
        self.looks += 1
        await self.may_answer.wait()
        if isinstance(self.health, Exception):
            raise self.health
        return self.health


@pytest.fixture
async def looked_at(fake_clock):
    hooks, told = Hooks(), list[Event]()
    transport = HttpTransport()
    instance = AttachedInstance(
        Variant("far", engine_type="fake", url="http://h:1"),
        1,
        hooks,
        AttachLauncher(),
        transport=transport,
        clock=fake_clock,
        limits=LoadLimits(),
        report=told.append,
    )
    instance.start()
    await fake_clock.advance()
    yield instance, hooks, told
    instance.stop()
    await asyncio.wait_for(instance.ended(), PATIENCE)
    assert isinstance(told[-1], Stopped)
    await transport.close()


async def test_a_server_that_is_well_is_looked_at_every_ten_seconds(looked_at, fake_clock):
    _, hooks, told = looked_at
    assert [type(event) for event in told] == [Ready]
    await fake_clock.advance(9.9)
    assert hooks.looks == 1
    await fake_clock.advance(0.2)
    assert hooks.looks == 2


async def test_a_look_can_be_had_at_once(looked_at, fake_clock):
    instance, hooks, told = looked_at
    hooks.health = Health("starting", detail="HTTP 503: loading")
    instance.probe()
    await fake_clock.advance()
    assert isinstance(told[-1], Lost)
    assert told[-1].error.message == "far/default does not serve at http://h:1: HTTP 503: loading"
    hooks.health = Health("ready")
    await fake_clock.advance(0.5)
    assert isinstance(told[-1], Ready)


@pytest.mark.parametrize(
    "health", [Health("asleep"), Health("failed"), PluginError("a defect"), EngineUnreachable("x")]
)
async def test_whatever_is_not_ready_is_out_of_reach_and_looked_at_again(
    looked_at, fake_clock, health
):
    _, hooks, told = looked_at
    hooks.health = health
    await fake_clock.advance(60.0)
    assert {type(event) for event in told[1:]} == {Lost}
    assert hooks.looks == 10  # at 0 and 10 s, then 0.5, 1, 2, 4, 8 and 10, 10, 10 s later each


async def test_who_wants_it_while_it_is_looked_at_is_not_told_how_it_was_before(
    looked_at, fake_clock
):
    instance, hooks, told = looked_at
    hooks.health = Health("starting")
    await fake_clock.advance(10.0)
    hooks.may_answer.clear()
    await fake_clock.advance(0.5)
    looks = hooks.looks
    instance.probe()
    hooks.may_answer.set()
    await fake_clock.advance()
    assert [type(event) for event in told] == [Ready, Lost, Lost]
    assert hooks.looks == looks + 1


async def test_a_server_that_is_always_wanted_is_told_as_lost_all_the_same(looked_at, fake_clock):
    instance, hooks, told = looked_at
    hooks.health = Health("starting")

    class Eager(asyncio.Event):
        async def wait(self) -> bool:
            instance.probe()
            return True

    hooks.may_answer = Eager()
    instance.probe()
    await fake_clock.advance()
    assert Lost in {type(event) for event in told}
    hooks.may_answer = asyncio.Event()
    hooks.may_answer.set()
