"""Real mock engines on unix sockets, under the manager: asked, streamed, swapped, crashed, and nothing left."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from enginery import (
    EngineManager,
    EngineStartFailed,
    EngineUnreachable,
    InvalidRequest,
    Settings,
)
from enginery.engine.launchers import LocalLauncher
from enginery.engine.sockets import LONGEST_PATH, SocketDirectory
from enginery.engine.transport import HttpTransport, open_session
from enginery.values import Endpoint

pytestmark = pytest.mark.both_loops

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
MOCK = {"engine": "mock"}
SILENT = {"engine": "openai", "binary": "true", "args": ["--port", "{port}"]}


@pytest.fixture
def parent():
    """Where socket directories are made; nothing is left of them after each test."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


def manager_of(parent: Path, **models: Any) -> tuple[EngineManager, LocalLauncher]:
    settings = Settings(
        defaults={"listen": "unix", "min_residency": 0, "shutdown_timeout": 0.5}, models=models
    )
    launcher = LocalLauncher(sockets=SocketDirectory(str(parent)))
    return EngineManager(settings, launchers=[launcher]), launcher


@pytest.fixture
async def manager(parent):
    manager, launcher = manager_of(parent, a=MOCK, b=MOCK, silent=SILENT)
    async with manager:
        yield manager
    assert list(parent.glob("*/*.sock")) == []
    launcher.close()


async def ask(client, session, **more: Any) -> dict[str, Any]:
    async with await client.forward_request(session, "", {**HELLO, **more}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_an_engine_is_started_asked_and_streamed_without_a_port(manager, parent):
    client = await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    assert client.base_url == Endpoint("localhost", 0, unix_path=str(path)).base_url
    assert [row.address for row in manager.status()] == [str(path)]
    assert await client.check_health()
    assert await client.check_health(client.base_url)
    assert await client.estimate_tokens(HELLO) > HELLO["max_tokens"]
    async with client.open_session() as session:
        assert (await ask(client, session))["object"] == "chat.completion"
        assert (await client.running_engine().get("/v1/models")).status == 200
        body = {**HELLO, "stream": True}
        async with await client.forward_request(session, client.base_url, body) as response:
            assert (await response.text()).endswith("data: [DONE]\n\n")
    assert sum(row.in_flight for row in manager.status()) == 0


async def test_a_swap_removes_the_file_and_an_old_session_still_leads_to_the_engine(
    manager, parent
):
    client = await manager.ensure_engine("a")
    (first,) = parent.glob("*/*.sock")
    async with client.open_session() as session:
        for model in ("b", "a", "b", "a"):
            other = await manager.ensure_engine(model)
            (path,) = parent.glob("*/*.sock")
            assert (path == first) == (model == "a")
            async with other.open_session() as own:
                await ask(other, own)
        await ask(client, session)


async def test_a_stale_file_is_no_hindrance(manager, parent):
    await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    await manager.unload("a")
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    client = await manager.ensure_engine("a")
    async with client.open_session() as session:
        await ask(client, session)


async def test_a_listener_of_somebody_else_at_its_path_gets_no_request(manager, parent):
    await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    await manager.unload("a")
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(path))
        squatter.listen()
        squatter.setblocking(False)
        client = await manager.ensure_engine("a")
        async with client.open_session() as session:
            await ask(client, session)
        with pytest.raises(BlockingIOError):
            squatter.accept()


async def test_a_crash_leaves_no_file_and_the_next_request_starts_it_at_the_same_path(
    manager, parent, eventually
):
    client = await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    (row,) = manager.status()
    os.kill(row.pid, signal.SIGKILL)
    await eventually(lambda: manager.status()[0].state == "failed", timeout=30)
    assert not path.exists()
    again = await manager.ensure_engine("a")
    assert again.base_url == client.base_url
    async with client.open_session() as session:
        await ask(client, session)


async def test_an_engine_that_offers_no_socket_says_how_to_go_on(manager):
    with pytest.raises(
        EngineStartFailed, match="'openai' offers no unix socket: set `listen: tcp`"
    ):
        await manager.ensure_engine("silent")


async def test_a_variant_may_listen_on_a_port_beside_others_on_sockets(manager, parent):
    client = await manager.ensure_engine("c", {"listen": "tcp"}, "mock")
    assert client.base_url.startswith("http://127.0.0.1:")
    async with client.open_session() as session:
        await ask(client, session)
    assert list(parent.glob("*/*.sock")) == []


async def test_a_session_that_leads_elsewhere_is_refused_before_the_key_is_sent(manager, tmp_path):
    client = await manager.ensure_engine("a")
    async with open_session() as tcp:
        with pytest.raises(InvalidRequest, match=r"client\.open_session") as caught:
            await client.forward_request(tcp, "", HELLO)
    assert caught.value.param == "session"
    async with open_session(str(tmp_path / "other.sock")) as elsewhere:
        with pytest.raises(InvalidRequest, match=r"client\.open_session"):
            await client.forward_request(elsewhere, "", HELLO)
        port = await manager.ensure_engine("c", {"listen": "tcp"}, "mock")
        with pytest.raises(InvalidRequest, match=r"client\.open_session"):
            await port.forward_request(elsewhere, "", HELLO)
    assert sum(row.in_flight for row in manager.status()) == 0


async def test_an_applications_own_unix_session_will_do(manager, parent):
    client = await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        await ask(client, session)


async def test_small_requests_to_a_socket_that_is_gone_are_unreachable(tmp_path):
    transport = HttpTransport()
    gone = Endpoint("localhost", 0, unix_path=str(tmp_path / "gone.sock"))
    with pytest.raises(EngineUnreachable, match=r"http\+unix://"):
        await transport.fetch(gone, "GET", "/health")
    await transport.close()


async def test_too_deep_a_directory_for_temporary_files_fails_the_start_and_says_so(tmp_path):
    deep = tmp_path / ("x" * LONGEST_PATH)
    deep.mkdir()
    manager, launcher = manager_of(deep, a=MOCK)
    async with manager:
        with pytest.raises(EngineStartFailed, match="set TMPDIR"):
            await manager.ensure_engine("a")
    launcher.close()


async def test_a_manager_that_is_shut_down_leaves_no_directory(parent, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    settings = Settings(models={"a": {**MOCK, "listen": "unix"}})
    async with EngineManager(settings) as manager:
        await manager.ensure_engine("a")
        assert len(list(parent.iterdir())) == 1
    assert list(parent.iterdir()) == []
