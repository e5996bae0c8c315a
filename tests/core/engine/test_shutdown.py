"""The end of a manager: what it says of engines that would not die, and that all else is done first."""

from __future__ import annotations

import asyncio

import pytest

from enginery import EngineLeaked, EngineManager
from enginery.engine.process import ExitStatus
from support.fake_engines import FakeLauncher, FakeRegistry, fake_settings


@pytest.fixture
def launcher() -> FakeLauncher:
    launcher = FakeLauncher()
    launcher.together = True
    launcher.sizes = {"a": 30, "b": 30}
    return launcher


def manager_of(launcher: FakeLauncher) -> EngineManager:
    settings = fake_settings(budget={"gpu0": 100})
    return EngineManager(settings, launchers=[launcher], registry=FakeRegistry(launcher))


async def test_what_would_not_die_is_named_once_everything_else_has_ended(launcher):
    manager = manager_of(launcher)
    await manager.load("a")
    await manager.load("b")
    launcher.undying.add("a")
    events = manager.subscribe()
    with pytest.raises(EngineLeaked, match=r"left: a/default \(pid 1000, leaked\)$"):
        await manager.shutdown()
    assert [handle.model for handle in launcher.running] == ["a"]
    assert manager.closed
    async for event in events:
        assert event.model in {"a", "b"}  # and the stream of events ends


async def test_a_second_shutdown_says_the_same_until_the_engine_is_gone_at_last(launcher):
    manager = manager_of(launcher)
    await manager.load("a")
    launcher.undying.add("a")
    for _ in range(2):
        with pytest.raises(EngineLeaked):
            await manager.shutdown()
    launcher.undying.clear()
    launcher.running[0].die(ExitStatus(signal=9))
    while manager.status()[0].state != "stopped":
        await asyncio.sleep(0)
    await manager.shutdown()


async def test_leaving_the_context_tells_it_on_top_of_what_ended_the_body(launcher):
    launcher.undying.add("a")

    async def body() -> None:
        async with manager_of(launcher) as manager:
            await manager.load("a")
            raise KeyError("the application's own")

    with pytest.raises(EngineLeaked) as caught:
        await body()
    assert isinstance(caught.value.__context__, KeyError)
    launcher.undying.clear()
    launcher.running[0].die(ExitStatus(signal=9))
