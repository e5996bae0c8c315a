"""The manager on naps, idle times, memory that comes back late, and models loaded at the start."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from enginery import EngineManager
from enginery.engine.process import ExitStatus
from support.fake_engines import FakeLauncher, FakeRegistry, fake_settings


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@asynccontextmanager
async def managing(launcher: FakeLauncher, clock=None, **settings):
    async with EngineManager(
        fake_settings(**settings),
        launchers=[launcher],
        registry=FakeRegistry(launcher),
        clock=clock,
    ) as manager:
        yield manager
    assert launcher.running == []


def states(manager: EngineManager) -> dict[str, str]:
    return {row.model: row.state for row in manager.status()}


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def load(manager: EngineManager, clock, model: str) -> None:
    """Load while a fake clock stands still between the looks of the readiness check."""
    loading = asyncio.create_task(manager.load(model))
    while not loading.done():
        await clock.advance(0.05)
    await loading


async def test_an_idle_engine_is_stopped_after_its_ttl(launcher, fake_clock):
    async with managing(launcher, fake_clock, ttl=60) as manager:
        await load(manager, fake_clock, "a")
        assert manager.status()[0].ttl_left_s == pytest.approx(60, abs=1)
        await fake_clock.advance(58)
        assert states(manager) == {"a": "ready"}
        await fake_clock.advance(3)
        await turns()
        assert states(manager) == {"a": "stopped"}
        assert "ttl" in manager.status()[0].reason or launcher.running == []


async def test_a_pinned_engine_is_never_stopped_for_being_idle(launcher, fake_clock):
    async with managing(launcher, fake_clock, ttl=60, pin=True) as manager:
        await load(manager, fake_clock, "a")
        await fake_clock.advance(10_000)
        assert states(manager) == {"a": "ready"}
        assert manager.status()[0].ttl_left_s is None


async def test_an_engine_that_can_sleep_sleeps_when_idle_and_wakes_for_the_next(
    launcher, fake_clock
):
    settings = {"models": ("sleepy", "b"), "sleep_after": 5, "sleep_level": 2}
    async with managing(launcher, fake_clock, **settings) as manager:
        await load(manager, fake_clock, "sleepy")
        await fake_clock.advance(6)
        await turns()
        assert states(manager) == {"sleepy": "asleep"}
        await load(manager, fake_clock, "sleepy")
        assert launcher.rests == ["sleep sleepy 2", "wake sleepy"]
        assert launcher.launched == ["sleepy"]


async def test_a_swap_puts_an_engine_to_sleep_that_can_and_wakes_it_for_the_way_back(launcher):
    async with managing(launcher, models=("sleepy-a", "sleepy-b")) as manager:
        launcher.together = True
        for model in ("sleepy-a", "sleepy-b", "sleepy-a"):
            await manager.load(model)
        assert states(manager) == {"sleepy-a": "ready", "sleepy-b": "asleep"}
        assert launcher.launched == ["sleepy-a", "sleepy-b"]


async def test_with_sleep_level_0_it_is_stopped_instead(launcher):
    async with managing(launcher, models=("sleepy-a", "b"), sleep_level=0) as manager:
        await manager.load("sleepy-a")
        await manager.load("b")
        assert launcher.rests == []
        assert states(manager) == {"sleepy-a": "stopped", "b": "ready"}


async def test_an_engine_that_cannot_wake_is_started_anew(launcher):
    async with managing(launcher, models=("sleepy-a", "sleepy-b")) as manager:
        launcher.together = True
        await manager.load("sleepy-a")
        await manager.load("sleepy-b")
        launcher.cannot_wake.add("sleepy-a")
        await manager.load("sleepy-a")
        assert launcher.launched == ["sleepy-a", "sleepy-b", "sleepy-a"]
        assert states(manager)["sleepy-a"] == "ready"


async def test_unload_wakes_nobody(launcher):
    async with managing(launcher, models=("sleepy-a", "sleepy-b")) as manager:
        launcher.together = True
        await manager.load("sleepy-a")
        await manager.load("sleepy-b")
        await manager.unload("sleepy-a")
        assert states(manager)["sleepy-a"] == "stopped"
        assert launcher.rests == ["sleep sleepy-a 1"]


async def test_engines_within_the_budget_stay_beside_each_other(launcher):
    launcher.sizes = {"a": 30, "b": 40, "c": 50}
    launcher.together = True
    async with managing(launcher, budget={"gpu0": 100}) as manager:
        await manager.load("a")
        await manager.load("b")
        assert states(manager) == {"a": "ready", "b": "ready"}
        await manager.load("c")
        assert states(manager) == {"a": "stopped", "b": "ready", "c": "ready"}
        assert manager.status()[1].memory == {"gpu0": 40}


async def test_the_next_load_waits_until_the_memory_is_back(launcher):
    launcher.sizes = {"a": 80, "b": 80}
    async with managing(launcher, budget={"gpu0": 100}) as manager:
        await manager.load("a")
        launcher.late["a"] = 4
        before = launcher.asked_for_memory
        await manager.load("b")
        assert launcher.asked_for_memory - before >= 5
        assert states(manager) == {"a": "stopped", "b": "ready"}


async def test_memory_that_never_comes_back_is_waited_for_only_so_long(launcher, fake_clock):
    launcher.sizes = {"a": 80}
    async with managing(launcher, fake_clock, budget={"gpu0": 100}) as manager:
        await load(manager, fake_clock, "a")
        launcher.late["a"] = 10_000
        unloading = asyncio.create_task(manager.unload("a"))
        await fake_clock.advance(4.5)
        assert not unloading.done()
        await fake_clock.advance(1.0)
        await unloading


async def test_models_that_are_to_be_preloaded_are_loaded_at_the_start(launcher):
    async with managing(launcher, models=("a",), preload=True) as manager:
        while states(manager) != {"a": "ready"}:
            await asyncio.sleep(0)
    assert launcher.launched == ["a"]


async def test_a_preload_that_fails_is_logged_and_harms_nobody(launcher, caplog):
    launcher.dies_in_load.add("a")
    async with managing(launcher, models=("a",), preload=True) as manager:
        while states(manager) != {"a": "failed"}:
            await asyncio.sleep(0)
        await turns()
        launcher.dies_in_load.clear()
        await manager.load("a")
        assert states(manager) == {"a": "ready"}
    assert "preload of a failed: a/default ended before it was ready: exit status 7" in caplog.text


async def test_after_a_crash_a_request_waits_for_the_back_off_and_is_served(launcher, fake_clock):
    from enginery.values import EngineRequest

    chat = EngineRequest("/v1/chat/completions", {"messages": []})
    async with managing(launcher, fake_clock) as manager:
        await load(manager, fake_clock, "a")
        launcher.running[0].die(ExitStatus(signal=9))
        await turns()
        row = manager.status()[0]
        assert row.state == "failed"
        assert row.retry_in_s == pytest.approx(1.0, abs=0.2)
        waiting = asyncio.create_task(manager.acquire(chat, "a"))
        await fake_clock.advance(0.7)
        assert not waiting.done()
        while not waiting.done():
            await fake_clock.advance(0.1)
        (await waiting).release()
        assert launcher.launched == ["a", "a"]
