"""What was wrong with the clients that these replace; each defect by its name, so that none comes back.

Those of the scheduler and the loop have their tests beside them; here are the ones that a client's user meets.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from dataclasses import FrozenInstanceError

import msgspec
import pytest

from enginery.enginecore import (
    ClientConfig,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
    SyncMPClient,
)
from enginery.errors import EngineClosedError, EngineDeadError, UnsupportedOperation
from support.core_clients import DRIVERS, Driver, mock_config, request

MP = ["sync_mp", "async_mp"]


@pytest.mark.parametrize("kind", DRIVERS)
async def test_nothing_ever_finished(kind) -> None:
    async with Driver(kind) as driver:
        for number in range(20):
            await driver.do("add_request", request(f"r{number}", 1 + number))
        ends = {
            output.request_id: output.finish_reason
            for output in await driver.outputs()
            if output.finish_reason is not None
        }
        assert ends == {f"r{number}": FinishReason.LENGTH for number in range(20)}


@pytest.mark.parametrize("kind", DRIVERS)
async def test_long_prompts_starved_when_their_sum_passed_the_budget(kind) -> None:
    config = ClientConfig(max_batch_size=4, max_tokens=8, timeout_s=30)
    async with Driver(kind, config) as driver:
        said = await driver.tokens(*(request(f"r{n}", 3, prompt=50) for n in range(6)))
        assert {name: len(tokens) for name, tokens in said.items()} == dict.fromkeys(said, 3)


@pytest.mark.parametrize("kind", MP)
async def test_every_step_waited_a_tenth_of_a_second_for_a_message(kind) -> None:
    # 4000 steps at ten a second would take 400 s
    async with Driver(kind) as driver:
        said = await driver.tokens(request("a", 4000))
        assert len(said["a"]) == 4000


@pytest.mark.parametrize("kind", DRIVERS)
async def test_an_abort_left_its_consumer_waiting(kind) -> None:
    async with Driver(kind, mock_config(step_ms=2)) as driver:
        await driver.do("add_request", request("a", 4000))
        await driver.do("get_output")
        await driver.do("abort_requests", ["a"])
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ABORT


@pytest.mark.parametrize("kind", MP)
async def test_finished_and_aborted_requests_were_never_forgotten(kind) -> None:
    async with Driver(kind) as driver:
        for turn in range(10):
            for number in range(30):
                await driver.do("add_request", request(f"{turn}-{number}", 3))
            await driver.do("abort_requests", [f"{turn}-{number}" for number in range(10)])
            await driver.outputs()
        stats = await driver.do("get_stats")
        assert (stats["unfinished"], stats["held"]) == (0, 0)
        assert not driver.client._state._live
        assert not driver.client._state._late


@pytest.mark.parametrize("kind", MP)
async def test_a_dead_worker_was_an_empty_batch_after_a_minute(kind) -> None:
    async with Driver(kind, mock_config(fail_at_step=1)) as driver:
        await driver.do("add_request", request("a"))
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ERROR
        with pytest.raises(EngineDeadError, match="fails at step 1"):
            await driver.do("get_output")


@pytest.mark.parametrize("kind", DRIVERS)
async def test_no_output_in_time_was_an_empty_batch(kind) -> None:
    async with Driver(kind) as driver:
        with pytest.raises(TimeoutError):
            await driver.do("get_output", 0.01)


@pytest.mark.parametrize("kind", DRIVERS)
async def test_sleep_wake_reset_profile_and_dummy_did_nothing_and_said_so_to_nobody(
    kind, tmp_path
) -> None:
    async with Driver(kind) as driver:
        await driver.do("sleep", 1)
        assert await driver.do("is_sleeping") is True
        assert await driver.do("wake_up") is True
        assert await driver.do("reset_prefix_cache") is True
        await driver.do("profile", True, str(tmp_path / "steps"))
        await driver.do("execute_dummy_batch")
        assert await driver.do("profile", False)
    async with Driver(kind, mock_config("support.core_backends:words")) as driver:
        for call in (("sleep", 1), ("reset_prefix_cache",), ("profile",), ("execute_dummy_batch",)):
            with pytest.raises(UnsupportedOperation):
                await driver.do(*call)


def test_async_twins_were_missing() -> None:
    for name in (
        "shutdown",
        "get_output",
        "add_request",
        "abort_requests",
        "profile",
        "reset_prefix_cache",
        "sleep",
        "wake_up",
        "is_sleeping",
        "execute_dummy_batch",
    ):
        sync, twin = getattr(EngineCoreClient, name), getattr(EngineCoreClient, f"{name}_async")
        assert inspect.iscoroutinefunction(twin)
        assert inspect.signature(sync) == inspect.signature(twin)


@pytest.mark.parametrize("kind", MP)
async def test_shutdown_left_requests_in_flight_without_a_word(kind) -> None:
    async with Driver(kind, mock_config(step_ms=2)) as driver:
        await driver.do("add_request", request("a", 4000))
        await driver.do("get_output")
        await driver.do("shutdown")
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ABORT
        with pytest.raises(EngineClosedError):
            await driver.do("add_request", request("b"))


def test_sync_mp_was_a_thread_and_no_process() -> None:
    before = set(threading.enumerate())
    with SyncMPClient() as client:
        assert client.pid != os.getpid()
        # the only thread reads what the child prints
        assert {t.name for t in set(threading.enumerate()) - before} == {"enginery-core-output"}
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError):
            client.get_output()


def test_there_were_two_finish_reasons_and_two_outputs() -> None:
    assert {str(reason) for reason in FinishReason} == {"stop", "length", "abort", "error"}
    sent = msgspec.msgpack.encode(EngineCoreOutput("a", finish_reason=FinishReason.STOP))
    assert msgspec.msgpack.decode(sent, type=EngineCoreOutput).finish_reason is FinishReason.STOP


def test_sampling_parameters_without_a_dict_crashed_the_core() -> None:
    with pytest.raises(ValueError, match="sampling_params"):
        EngineCoreRequest("a", prompt="x", sampling_params=None)
    with SyncMPClient() as client:
        client.add_request(
            EngineCoreRequest("a", [1], sampling_params=SamplingParams(max_tokens=1))
        )
        assert client.get_output().outputs[0].finish_reason is not None


async def test_a_cancelled_pump_lost_what_its_thread_had_taken() -> None:
    async with Driver("async_mp", mock_config(step_ms=1)) as driver:
        before = set(threading.enumerate())
        await driver.do("add_request", request("a", 30))
        tokens: list[int] = []
        while driver.client.unfinished:
            try:
                async with asyncio.timeout(0.0005):
                    batch = await driver.do("get_output")
            except TimeoutError:
                continue
            for output in batch.outputs:
                tokens += output.new_token_ids
        assert len(tokens) == 30
        assert set(threading.enumerate()) <= before  # and it took none of the default pool


async def test_the_callers_configuration_was_changed() -> None:
    config = ClientConfig()
    twin = ClientConfig()
    async with Driver("async_mp", config):
        assert config == twin
    with pytest.raises(FrozenInstanceError):
        config.seed = 3
