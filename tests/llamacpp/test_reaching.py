"""Real llama.cpp on a unix socket, proved by its key alone, and attached to by its address."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from enginery import EngineManager, EngineUnreachable, Settings
from enginery.engine.launchers import LocalLauncher
from enginery.engine.ownership import Whose, told_by_key
from enginery.engine.sockets import SocketDirectory
from enginery.engine.transport import HttpTransport
from enginery.values import Endpoint
from support.blind_machine import BlindLauncher

CHAT = {
    "messages": [{"role": "user", "content": "List objects are"}],
    "max_tokens": 8,
    "temperature": 0,
}
DEFAULTS = {"min_residency": 0, "drain_timeout": 5, "shutdown_timeout": 0.1}


@pytest.fixture
def tiny(models) -> dict[str, Any]:
    options = {"model": str(models / "tiny-chat.gguf"), "threads": 1}
    return {"engine": "llama.cpp", "context_length": 1024, "options": options}


@pytest.fixture
def parent():
    """Where socket directories are made; nothing is left of them after each test."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


@pytest.fixture
async def manager(parent, tiny):
    settings = Settings(models={"a": tiny, "b": tiny}, defaults={**DEFAULTS, "listen": "unix"})
    launcher = LocalLauncher(sockets=SocketDirectory(str(parent)))
    async with EngineManager(settings, launchers=[launcher]) as manager:
        yield manager
    assert list(parent.glob("*/*.sock")) == []
    launcher.close()


async def ask(client, **more: Any) -> str:
    async with (
        client.open_session() as session,
        await client.forward_request(session, "", {**CHAT, **more}) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.text()


async def test_it_is_started_asked_streamed_and_swapped_on_sockets(manager, parent):
    for model in ("a", "b", "a"):
        client = await manager.ensure_engine(model)
        (path,) = parent.glob("*/*.sock")
        assert [row.address for row in manager.status() if row.state == "ready"] == [str(path)]
        assert '"chat.completion"' in await ask(client)
        assert (await ask(client, stream=True)).endswith("data: [DONE]\n\n")
        assert await client.check_health()
        assert await client.estimate_tokens(CHAT) > CHAT["max_tokens"]
    await manager.unload("a")
    assert list(parent.glob("*/*.sock")) == []


async def test_what_a_killed_engine_or_somebody_else_left_at_its_path_is_removed_first(
    manager, parent, eventually
):
    await manager.ensure_engine("a")
    (path,) = parent.glob("*/*.sock")
    os.kill(manager.status()[0].pid, signal.SIGKILL)
    await eventually(lambda: manager.status()[0].state == "failed", timeout=30)
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    await ask(await manager.ensure_engine("a"))


@pytest.mark.parametrize("listen", ["tcp", "unix"])
async def test_its_key_alone_proves_that_it_is_ours(tiny, listen):
    launcher = BlindLauncher()
    settings = Settings(models={"a": {**tiny, "listen": listen}}, defaults=DEFAULTS)
    transport = HttpTransport()
    async with EngineManager(settings, launchers=[launcher]) as manager:
        client = await manager.ensure_engine("a")
        await ask(client)
        assert await told_by_key(client.endpoint, transport) is Whose.OURS
    assert len(launcher.reserved) == 1
    await transport.close()
    launcher.close()


async def test_somebody_elses_llama_cpp_at_its_port_is_told_by_the_key(start, tiny):
    settings = Settings(models={"a": tiny}, defaults=DEFAULTS)
    with start("tiny-chat") as other:
        launcher = BlindLauncher(Endpoint("127.0.0.1", other.endpoint.port, "ours"))
        async with EngineManager(settings, launchers=[launcher]) as manager:
            client = await manager.ensure_engine("a")
            assert client.endpoint.port != other.endpoint.port
            await ask(client)
    assert len(launcher.reserved) == 2


async def test_one_that_runs_already_is_attached_to_and_left_running(start, tiny):
    with start("tiny-chat") as other:
        far = {
            "engine": "llama.cpp",
            "url": other.endpoint.base_url,
            "api_key": other.endpoint.api_key,
        }
        settings = Settings(models={"far": far, "a": tiny}, defaults=DEFAULTS)
        async with EngineManager(settings) as manager:
            client = await manager.ensure_engine("far")
            assert await client.estimate_tokens(CHAT) > CHAT["max_tokens"]
            await ask(await manager.ensure_engine("a"))
            await ask(client)
            assert [row.state for row in manager.status()] == ["ready", "ready"]
            other.process.kill()
            other.process.wait()
            with pytest.raises(EngineUnreachable):
                await manager.ensure_engine("far")
            await ask(await manager.ensure_engine("a"))
