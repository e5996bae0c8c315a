from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from enginery import (
    BadEngineReply,
    Endpoint,
    EngineHooks,
    PluginEngineClient,
    RunningEngine,
    Variant,
)
from enginery_mock import MockPlugin
from enginery_mock.devices import used
from enginery_mock.flags import DEVICES_VARIABLE

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]
CHAT = "/v1/chat/completions"
FLAGS = ("--sleep-levels", "0,1,2", "--memory", "gpu0=8", "--memory-asleep", "ram=3")
HOOKS = EngineHooks(MockPlugin(), "mock", "enginery-mock")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("devices")


@pytest.fixture(scope="module")
def shared(mock: Any, directory: Path) -> Iterator[Any]:
    process = type(mock)(*FLAGS, env={DEVICES_VARIABLE: str(directory)}).wait_until_ready()
    yield process
    process.kill()


@pytest.fixture
def sleeper(shared: Any) -> Iterator[Any]:
    """One mock for all tests; each finds it awake."""
    yield shared
    shared.get("/wake_up", {})


@asynccontextmanager
async def engine_of(mock: Any, **options: Any) -> AsyncIterator[RunningEngine]:
    variant = Variant("m", engine_type="mock", options=options)
    port = int(mock.url.rpartition(":")[2])
    async with PluginEngineClient(HOOKS, variant, Endpoint("127.0.0.1", port)) as client:
        yield client.running_engine()


@pytest.mark.parametrize(("level", "left"), [(0, {"gpu0": 8}), (1, {"ram": 3}), (2, {"ram": 3})])
def test_sleep_and_wake_in_vllms_shapes_give_memory_back_and_take_it(
    sleeper: Any, directory: Path, level: int, left: dict[str, int]
) -> None:
    assert sleeper.get("/is_sleeping") == (200, {"is_sleeping": False})
    asleep = {"status": "sleeping", "level": level}
    assert sleeper.get(f"/sleep?level={level}", {}) == (200, asleep)
    assert sleeper.get("/is_sleeping") == (200, {"is_sleeping": True})
    assert sleeper.get("/health") == (200, {"status": "ok"})
    assert used(directory) == left
    assert sleeper.get("/wake_up", {}) == (200, {"status": "awake", "tags": None})
    assert sleeper.get("/is_sleeping") == (200, {"is_sleeping": False})
    assert used(directory) == {"gpu0": 8}


def test_it_may_be_woken_in_parts(sleeper: Any) -> None:
    assert sleeper.get("/sleep", {}) == (200, {"status": "sleeping", "level": 1})
    half = {"status": "sleeping", "tags": ["weights"]}
    assert sleeper.get("/wake_up?tags=weights", {}) == (200, half)
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": True}
    whole = {"status": "awake", "tags": ["kv_cache"]}
    assert sleeper.get("/wake_up?tags=kv_cache", {}) == (200, whole)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/sleep?level=7", "level"),
        ("/sleep?level=", "level"),
        ("/sleep?mode=bogus", "mode"),
        ("/wake_up?tags=a", "tags"),
    ],
)
def test_what_it_does_not_know_is_a_400_that_names_it(sleeper: Any, path: str, param: str) -> None:
    status, body = sleeper.get(path, {})
    assert (status, body["error"]["param"]) == (400, param)
    assert sleeper.get("/is_sleeping")[1] == {"is_sleeping": False}


def test_without_levels_there_are_no_such_routes(mock: Any) -> None:
    assert [mock.get(path, {})[0] for path in ("/sleep", "/wake_up")] == [404, 404]
    assert mock.get("/is_sleeping")[0] == 404


async def test_requests_that_come_while_it_sleeps_wait_until_it_is_awake(
    sleeper: Any, eventually: Any
) -> None:
    sleeper.get("/sleep?level=1", {})
    async with aiohttp.ClientSession(sleeper.url) as session:
        ask = {"messages": HELLO, "max_tokens": 2}
        held = [asyncio.create_task(session.post(CHAT, json=ask)) for _ in range(2)]
        await eventually(lambda: sleeper.report()["queued"] == 2)
        assert sleeper.report()["running"] == 0
        sleeper.get("/wake_up", {})
        assert [(await reply).status for reply in held] == [200, 200]
    assert sleeper.report()["queued"] == 0


async def test_what_runs_ends_before_it_sleeps_and_a_caller_that_leaves_stops_nothing(
    start: Any, eventually: Any
) -> None:
    mock = start(*FLAGS, "--itl-ms", "60000", "--sleep-ms", "20", "--slots", "2").wait_until_ready()
    async with aiohttp.ClientSession(mock.url) as session:
        running = await session.post(CHAT, json={"messages": HELLO, "stream": True})
        asked = asyncio.create_task(session.post("/sleep?level=1&mode=wait"))
        await eventually(lambda: mock.report()["paused"])
        later = asyncio.create_task(session.post(CHAT, json={"messages": HELLO}))
        await eventually(lambda: mock.report()["queued"] == 1)
        assert mock.get("/is_sleeping")[1] == {"is_sleeping": False}
        asked.cancel()
        later.cancel()
        running.close()
        await eventually(lambda: mock.get("/is_sleeping")[1] == {"is_sleeping": True})
    assert mock.report()["running"] == 0


# -- hooks -----------------------------------------------------------------------------------------


async def test_the_plugin_puts_it_to_sleep_wakes_it_and_sees_which(sleeper: Any) -> None:
    async with engine_of(sleeper, sleep_levels=[1, 2]) as engine:
        assert list(HOOKS.sleep_levels(engine.variant)) == [1, 2]
        assert (await HOOKS.check_health(engine)).state == "ready"
        await HOOKS.sleep(engine, 2)
        assert (await HOOKS.check_health(engine)).state == "asleep"
        await HOOKS.wake_up(engine)
        assert (await HOOKS.check_health(engine)).state == "ready"


async def test_an_engine_that_cannot_sleep_says_so(mock: Any) -> None:
    assert list(HOOKS.sleep_levels(Variant("m"))) == []
    async with engine_of(mock, sleep_levels=[1]) as engine:
        with pytest.raises(BadEngineReply, match="HTTP 404"):
            await MockPlugin().sleep(engine, 1)
        assert (await HOOKS.check_health(engine)).state == "ready"


async def test_one_that_loads_or_is_gone_is_not_asleep(start: Any) -> None:
    mock = start(*FLAGS, "--hang-in-load")
    async with engine_of(mock, sleep_levels=[1]) as engine:
        assert (await HOOKS.check_health(engine)).state == "starting"
        mock.kill()
        assert (await HOOKS.check_health(engine)).state == "starting"
