"""The manager over engines that exist only in this file: every outcome, and every await cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any

import pytest

from enginery import (
    ConfigError,
    EngineCrashed,
    EngineEvicted,
    EngineLeaked,
    EngineManager,
    EngineStartFailed,
    EngineTimeout,
    ModelNotFound,
    ShuttingDown,
)
from enginery.engine.lease import Lease
from enginery.engine.process import ExitStatus
from enginery.engine.transport import open_session
from enginery.values import EngineRequest
from support.fake_engines import FakeLauncher, FakeRegistry, fake_settings


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
async def manager(launcher):
    async with EngineManager(
        fake_settings(), launchers=[launcher], registry=FakeRegistry(launcher)
    ) as manager:
        yield manager
    assert launcher.running == []


def states(manager: EngineManager) -> dict[str, str]:
    return {row.model: row.state for row in manager.status()}


def in_flight(manager: EngineManager) -> int:
    return sum(row.in_flight for row in manager.status())


CHAT = EngineRequest("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})


async def test_an_engine_is_ready_when_ensure_engine_returns(manager, launcher):
    client = await manager.ensure_engine("a")
    assert states(manager) == {"a": "ready"}
    assert client.base_url == "http://127.0.0.1:20000"
    assert in_flight(manager) == 0


async def test_the_same_engine_is_not_started_twice(manager, launcher):
    await manager.ensure_engine("a")
    await manager.ensure_engine("a")
    assert launcher.launched == ["a"]


async def test_many_callers_share_one_load(manager, launcher):
    await asyncio.gather(*(manager.ensure_engine("a") for _ in range(100)))
    assert launcher.launched == ["a"]


async def test_another_model_takes_the_place_of_the_first(manager, launcher):
    first = await manager.ensure_engine("a")
    await manager.ensure_engine("b")
    assert states(manager) == {"a": "stopped", "b": "ready"}
    async with open_session() as session:
        with pytest.raises(EngineEvicted, match="ensure_engine"):
            await first.forward_request(session, "", CHAT.body)


async def test_two_models_asked_for_together_are_both_served(manager, launcher):
    await asyncio.gather(*(manager.ensure_engine(model) for model in "abcabc"))
    assert sorted(set(launcher.launched)) == ["a", "b", "c"]


async def test_a_model_that_nobody_configured_needs_a_configuration(manager):
    with pytest.raises(ModelNotFound, match="did you mean"):
        await manager.ensure_engine("aa")
    client = await manager.ensure_engine("aa", {"context_length": 512})
    assert client.variant.context_length == 512
    assert (await manager.ensure_engine("aa")).variant == client.variant


async def test_another_variant_of_the_same_model_is_a_swap(manager, launcher):
    one = await manager.ensure_engine("x", {"context_length": 512})
    two = await manager.ensure_engine("x", {"context_length": 1024})
    assert launcher.launched == ["x", "x"]
    assert one.variant != two.variant
    assert [row.state for row in manager.status()] == ["stopped", "ready"]


async def test_an_engine_that_ends_while_loading_fails_with_its_status_and_last_lines(
    manager, launcher
):
    launcher.dies_in_load.add("a")
    with pytest.raises(EngineStartFailed) as caught:
        await manager.ensure_engine("a")
    assert "exit status 7" in caught.value.message
    assert "a: out of memory" in caught.value.message
    assert states(manager) == {"a": "failed"}
    launcher.dies_in_load.clear()
    await manager.ensure_engine("a")
    assert states(manager) == {"a": "ready"}


async def test_each_of_many_waiters_gets_its_own_error(manager, launcher):
    launcher.dies_in_load.add("a")
    results = await asyncio.gather(
        *(manager.ensure_engine("a") for _ in range(3)), return_exceptions=True
    )
    assert [type(error) for error in results] == [EngineStartFailed] * 3
    assert len({id(error) for error in results}) == 3


async def test_an_error_of_a_plugins_own_kind_reaches_every_waiter(manager, launcher):
    launcher.needs_driver.add("a")
    results = await asyncio.gather(
        *(manager.ensure_engine("a") for _ in range(2)), return_exceptions=True
    )
    assert [str(error) for error in results] == ["cuda is missing: install it"] * 2
    launcher.needs_driver.clear()
    await manager.ensure_engine("a")


async def test_an_engine_that_hangs_in_load_is_given_up_as_a_timeout_error(launcher):
    launcher.hangs_in_load.add("a")
    slow = fake_settings(load_stall=0.05)
    async with EngineManager(
        slow, launchers=[launcher], registry=FakeRegistry(launcher)
    ) as manager:
        with pytest.raises(TimeoutError, match="no sign of progress") as caught:
            await manager.ensure_engine("a")
        assert isinstance(caught.value, EngineTimeout)
        assert "HTTP 503: Loading model" in str(caught.value)
        assert launcher.running == []


async def test_a_port_that_somebody_took_is_exchanged_for_another(manager, launcher):
    launcher.squatted = {20_000, 20_001}
    client = await manager.ensure_engine("a")
    assert client.base_url.endswith(":20002")
    assert launcher.launched == ["a", "a", "a"]


async def test_after_five_taken_ports_the_start_fails(manager, launcher):
    launcher.squatted = set(range(20_000, 20_005))
    with pytest.raises(EngineStartFailed, match="20004 is served by another program"):
        await manager.ensure_engine("a")


async def test_what_tells_the_reason_is_shown_however_much_was_printed_after_it(manager, launcher):
    launcher.printed = ["worker: no such GPU", *(f"a traceback, line {n}" for n in range(100))]
    launcher.cause_hint = "^worker: "
    launcher.dies_in_load.add("a")
    with pytest.raises(EngineStartFailed) as caught:
        await manager.ensure_engine("a")
    told = caught.value.log_tail
    assert told[:2] == ("worker: no such GPU", "…")
    assert told[-2:] == ("a traceback, line 99", "a: out of memory")
    assert "worker: no such GPU" in caught.value.message


async def test_a_crash_is_followed_by_a_new_start(manager, launcher):
    client = await manager.ensure_engine("a")
    launcher.running[0].die(ExitStatus(signal=9))
    for _ in range(10):
        await asyncio.sleep(0)
    assert states(manager) == {"a": "failed"}
    async with open_session() as session:
        with pytest.raises(EngineCrashed, match="killed by SIGKILL"):
            await client.forward_request(session, "", CHAT.body)
    await manager.ensure_engine("a")
    assert launcher.launched == ["a", "a"]


async def test_a_client_follows_its_engine_through_a_restart(manager, launcher):
    client = await manager.ensure_engine("a")
    before = client.base_url
    launcher.running[0].die(ExitStatus(signal=9))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not await client.check_health(), "nobody is asked at the old address"
    await manager.ensure_engine("a")
    assert client.base_url != before
    assert await client.check_health() or await client.check_health()


async def test_an_engine_that_is_unwell_and_unused_is_restarted(manager, launcher):
    await manager.ensure_engine("a")
    launcher.unwell.add("a")
    ensuring = asyncio.create_task(manager.ensure_engine("a"))
    while len(launcher.launched) < 2:
        await asyncio.sleep(0)
    launcher.unwell.clear()
    await ensuring
    assert launcher.launched == ["a", "a"]


def counts(manager) -> dict[str, tuple[int, int]]:
    return {row.id.partition("/")[0]: (row.starts, row.restarts) for row in manager.status()}


async def test_a_swap_there_and_back_is_a_start_and_no_restart(manager):
    for name in ("a", "b", "a"):
        await manager.ensure_engine(name)
    assert counts(manager) == {"a": (2, 0), "b": (1, 0)}
    await manager.unload("a")
    await manager.load("a")
    assert counts(manager)["a"] == (3, 0)


async def test_a_restart_is_a_start_after_a_crash_an_illness_or_a_start_that_failed(
    manager, launcher
):
    await manager.ensure_engine("a")
    launcher.running[0].die(ExitStatus(signal=9))
    for _ in range(10):
        await asyncio.sleep(0)
    assert counts(manager) == {"a": (1, 0)}, "it has not come back yet"
    await manager.ensure_engine("a")
    assert counts(manager) == {"a": (2, 1)}
    launcher.unwell.add("a")
    ensuring = asyncio.create_task(manager.ensure_engine("a"))
    while len(launcher.launched) < 3:
        await asyncio.sleep(0)
    launcher.unwell.clear()
    await ensuring
    assert counts(manager) == {"a": (3, 2)}
    await manager.ensure_engine("b")
    await manager.ensure_engine("a")  # a swap tells nothing of its health
    assert counts(manager) == {"a": (4, 2), "b": (1, 0)}
    launcher.squatted = set(range(20_000, 21_000))
    with pytest.raises(EngineStartFailed):
        await manager.ensure_engine("b")
    launcher.squatted = set()
    await manager.ensure_engine("b")
    assert counts(manager)["b"] == (3, 1)


async def test_an_engine_that_is_unwell_but_in_use_is_left_alone(manager, launcher):
    async with manager.hold("a"):
        launcher.unwell.add("a")
        await manager.ensure_engine("a")
        launcher.unwell.clear()
    assert launcher.launched == ["a"]


async def test_an_engine_that_is_held_is_not_swapped(manager, launcher):
    async with manager.hold("a"):
        other = asyncio.create_task(manager.ensure_engine("b"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert states(manager) == {"a": "ready"}
    await other
    assert states(manager) == {"a": "stopped", "b": "ready"}


async def test_a_lease_counts_until_it_is_released_once(manager):
    lease = await manager.acquire(CHAT, "a")
    assert in_flight(manager) == 1
    lease.release()
    lease.release()
    assert in_flight(manager) == 0


async def test_the_current_client_is_that_of_the_last_grant_while_it_serves(manager):
    assert manager.get_current_client() is None
    await manager.ensure_engine("a")
    current = manager.get_current_client()
    assert current is not None
    assert current.variant.model == "a"
    await manager.unload("a")
    assert manager.get_current_client() is None


async def test_unload_returns_when_the_engine_is_gone(manager, launcher):
    await manager.load("a")
    await manager.unload("a")
    assert launcher.running == []
    await manager.unload("a")


async def test_an_engine_that_will_not_die_is_reported_to_whoever_unloads(launcher):
    launcher.undying.add("a")
    async with EngineManager(
        fake_settings(), launchers=[launcher], registry=FakeRegistry(launcher)
    ) as manager:
        await manager.load("a")
        with pytest.raises(EngineLeaked, match="survived SIGKILL"):
            await manager.unload("a")
        with pytest.raises(EngineStartFailed, match="would not die"):
            await manager.load("b")
        launcher.running[0].die(ExitStatus(signal=9))
        for _ in range(10):
            await asyncio.sleep(0)
        with pytest.raises(EngineStartFailed, match="would not die"):
            await manager.load("b")  # the engine ended, but something that it started did not
        launcher.undying.clear()
        for _ in range(10):
            await asyncio.sleep(0)
        await manager.load("b")
        assert states(manager) == {"a": "stopped", "b": "ready"}


async def test_shutdown_in_the_middle_of_a_load_answers_the_waiter_and_stops_the_engine(launcher):
    launcher.hangs_in_load.add("a")
    manager = EngineManager(fake_settings(), launchers=[launcher], registry=FakeRegistry(launcher))
    waiter = asyncio.create_task(manager.ensure_engine("a"))
    while not launcher.running:
        await asyncio.sleep(0)
    await manager.shutdown()
    with pytest.raises(ShuttingDown):
        await waiter
    assert launcher.running == []
    with pytest.raises(ShuttingDown):
        await manager.ensure_engine("a")
    await manager.shutdown()


async def test_the_application_has_one_manager_and_refuses_other_settings(launcher):
    one = EngineManager.get_instance(fake_settings())
    assert EngineManager.get_instance() is one
    assert EngineManager.get_instance(fake_settings()) is one
    with pytest.raises(ConfigError, match="other settings"):
        EngineManager.get_instance(fake_settings(max_queue=1))
    await one.shutdown()
    two = EngineManager.get_instance(fake_settings(max_queue=1))
    assert two is not one
    await two.shutdown()


async def test_events_tell_the_life_of_an_engine_in_order(manager):
    seen: list[str] = []
    events = manager.subscribe()

    async def listen() -> None:
        async for event in events:
            seen.extend([event.data["state"]] if event.type == "instance.state" else [])

    listening = asyncio.create_task(listen())
    await manager.load("a")
    await manager.unload("a")
    await asyncio.sleep(0)
    listening.cancel()
    assert seen == ["starting", "ready", "draining", "stopping", "stopped"]


# -- cancellation at every await point ------------------------------------------------------------


class CancelAt:
    """Awaits ``awaitable`` and cancels the running task at its ``step``-th suspension."""

    def __init__(self, awaitable: Awaitable[Any], step: int) -> None:
        self.awaitable = awaitable
        self.step = step
        self.cancelled = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self.awaitable.__await__()
        step, resume = 0, lambda: inner.send(None)
        while True:
            try:
                future = resume()
            except StopIteration as stop:
                return stop.value
            if step == self.step:
                self.cancelled = True
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            step += 1
            try:
                yield future
                resume = lambda: inner.send(None)  # noqa: E731  # the two ways to go on
            except BaseException as error:  # noqa: BLE001  # passed on as it is
                resume = lambda error=error: inner.throw(error)  # noqa: E731


async def settle(manager: EngineManager) -> None:
    """Let everything that is under way come to rest."""
    while any(row.state not in {"ready", "stopped", "failed"} for row in manager.status()):
        await asyncio.sleep(0)


@pytest.mark.parametrize("resident", ["nothing", "the same", "another"])
@pytest.mark.parametrize("beside", ["alone", "beside another waiter"])
async def test_ensure_engine_can_be_cancelled_at_every_await(launcher, resident, beside):
    step = 0
    while True:
        manager = EngineManager(
            fake_settings(), launchers=[launcher], registry=FakeRegistry(launcher)
        )
        if resident != "nothing":
            await manager.ensure_engine("a" if resident == "the same" else "b")
        other = asyncio.create_task(manager.ensure_engine("a")) if beside != "alone" else None
        interrupted = CancelAt(manager.ensure_engine("a"), step)

        async def call(awaitable: CancelAt = interrupted) -> None:
            await awaitable

        task = asyncio.create_task(call())
        await asyncio.wait({task})
        if other is not None:
            assert (await other).variant.model == "a", "the other waiter is served all the same"
        await settle(manager)
        assert in_flight(manager) == 0, f"a lease is left after cancelling at {step}"
        assert all(row.queued == 0 for row in manager.status()), f"a waiter is left at {step}"
        await manager.ensure_engine("c")
        await manager.shutdown()
        assert launcher.running == []
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert others == set(), f"a task is left after cancelling at {step}"
        if not interrupted.cancelled:
            assert not task.cancelled()
            break
        step += 1
    assert step >= 1


async def test_a_waiter_cancelled_in_the_tick_of_its_grant_leaves_no_lease(manager):
    async def acquire() -> Lease:
        return await manager.acquire(CHAT, "a")

    waiter = asyncio.create_task(acquire())
    while states(manager).get("a") != "ready":
        await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert in_flight(manager) == 0
