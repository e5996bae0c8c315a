"""What every client does, each with a real core: in this process, or in a child."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginery.enginecore import (
    AsyncMPClient,
    ClientConfig,
    EngineCore,
    EngineCoreClient,
    EngineCoreRequest,
    FinishReason,
    InprocClient,
    SamplingParams,
    SyncMPClient,
    create_client,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineClosedError,
    EngineError,
    EngineryError,
    InvalidRequest,
    UnsupportedOperation,
)
from support.core_clients import DRIVERS, Driver, mock_config, request

THE_TEN = [
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
]
AND_MORE = ["pause", "resume", "check_health", "get_stats", "call_utility"]


@pytest.fixture(params=DRIVERS)
async def driver(request):
    async with Driver(request.param, mock_config()) as made:
        yield made


@pytest.fixture(params=DRIVERS)
async def slow(request):
    """A step takes 2 ms, so a `LONG` request is not finished before a test has done what it does."""
    async with Driver(request.param, mock_config(step_ms=2)) as made:
        yield made


LONG = 4000


# -- making one ----------------------------------------------------------------------------------


def test_an_unknown_client_is_a_value_error_that_lists_the_three() -> None:
    with pytest.raises(ValueError, match="inproc, sync_mp, async_mp"):
        create_client("threads")


def test_each_name_makes_its_client() -> None:
    for kind, cls in (("inproc", InprocClient), ("sync_mp", SyncMPClient)):
        with create_client(kind) as client:
            assert type(client) is cls
    client = create_client("async_mp")
    assert type(client) is AsyncMPClient
    client.shutdown()


def test_the_configuration_names_the_field_that_is_wrong() -> None:
    for wrong in (
        {"max_batch_size": 0},
        {"max_tokens": True},
        {"timeout_s": 0},
        {"start_timeout_s": -1},
        {"backend": "no.colon"},
    ):
        (field,) = wrong
        with pytest.raises(ConfigError, match=field) as error:
            ClientConfig(**wrong)
        assert error.value.param == field


def test_a_callable_backend_is_for_inproc_alone() -> None:
    config = ClientConfig(backend=create_backend, options={"max_model_len": 77})
    with InprocClient(config) as client:
        assert client.capabilities.max_model_len == 77
    for cls in (SyncMPClient, AsyncMPClient):
        with pytest.raises(ConfigError, match="only InprocClient takes a callable"):
            cls(config)


def test_an_inproc_client_takes_a_core_that_is_there_already() -> None:
    core = EngineCore(create_backend(max_model_len=99))
    with InprocClient(engine_core=core) as client:
        assert client.capabilities.max_model_len == 99
        client.add_request(request("a", 2))
        while client.unfinished:
            client.get_output()
    with pytest.raises(EngineClosedError):
        core.add_request(request("b"))


def test_every_method_has_both_names_and_a_docstring() -> None:
    for name in THE_TEN + AND_MORE:
        for full in (name, f"{name}_async"):
            assert getattr(EngineCoreClient, full).__doc__, full


async def test_the_half_that_a_client_lacks_names_the_class_to_use() -> None:
    args = {
        "add_request": [request("a")],
        "abort_requests": [["a"]],
        "call_utility": ["is_sleeping"],
    }
    with SyncMPClient() as sync:
        for name in THE_TEN + AND_MORE:
            with pytest.raises(UnsupportedOperation, match="use AsyncMPClient, or InprocClient"):
                await getattr(sync, f"{name}_async")(*args.get(name, []))
        with pytest.raises(UnsupportedOperation, match="AsyncMPClient"):
            await sync.__aenter__()
    async with AsyncMPClient() as other:
        for name in THE_TEN[1:] + AND_MORE:
            with pytest.raises(UnsupportedOperation, match="use SyncMPClient, or InprocClient"):
                getattr(other, name)(*args.get(name, []))
        with pytest.raises(UnsupportedOperation, match="SyncMPClient"):
            other.__enter__()


# -- requests ------------------------------------------------------------------------------------


async def test_a_request_ends_with_as_many_tokens_as_it_wanted(driver) -> None:
    assert await driver.do("add_request", request("a", 6)) == "a"
    outputs = await driver.outputs()
    assert sum(len(output.new_token_ids) for output in outputs) == 6
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert (outputs[-1].num_prompt_tokens, outputs[-1].num_output_tokens) == (5, 6)


async def test_text_in_text_out_and_stop_strings(driver) -> None:
    whole = EngineCoreRequest(
        "a", prompt="tell me", sampling_params=SamplingParams(max_tokens=12, ignore_eos=True)
    )
    await driver.do("add_request", whole)
    text = "".join(output.text for output in await driver.outputs())
    stop = text.split()[2]
    params = SamplingParams(max_tokens=12, ignore_eos=True, stop=(stop,))
    await driver.do("add_request", EngineCoreRequest("b", prompt="tell me", sampling_params=params))
    outputs = await driver.outputs()
    assert "".join(output.text for output in outputs) == text[: text.index(stop)]
    assert (outputs[-1].finish_reason, outputs[-1].stop_reason) == (FinishReason.STOP, stop)


async def test_nothing_in_time_is_a_timeout_and_changes_nothing(driver) -> None:
    with pytest.raises(TimeoutError, match=r"no output within 0\.02 s"):
        await driver.do("get_output", 0.02)
    with pytest.raises(TimeoutError):
        await driver.do("get_output", 0)
    assert len((await driver.tokens(request("a", 3)))["a"]) == 3


async def test_get_output_is_never_empty(driver) -> None:
    await driver.do("add_request", request("a", 40))
    while driver.client.unfinished:
        assert (await driver.do("get_output")).outputs


async def test_abort_gives_the_last_output_at_once_and_unknown_ids_are_ignored(slow) -> None:
    await slow.do("add_request", request("a", LONG))
    await slow.do("get_output")
    assert await slow.do("abort_requests", []) == []
    assert await slow.do("abort_requests", ["nobody", "a", "a"]) == ["a"]
    assert await slow.do("abort_requests", ["a"]) == []
    outputs = await slow.outputs()
    assert [o.finish_reason for o in outputs if o.finish_reason is not None] == [FinishReason.ABORT]
    # the core has forgotten it, too
    stats = await slow.do("get_stats")
    assert stats["unfinished"] == 0
    assert len((await slow.tokens(request("a", 3)))["a"]) == 3


async def test_wrong_requests_are_value_errors_before_the_core_hears_of_them(slow) -> None:
    await slow.do("add_request", request("a", 300))
    with pytest.raises(ValueError, match="not finished yet"):
        await slow.do("add_request", request("a"))
    with pytest.raises(ContextLengthExceeded, match="4096"):
        await slow.do("add_request", request("b", prompt=5000))
    with pytest.raises(InvalidRequest, match="prompt_token_ids"):
        EngineCoreRequest("c", prompt_token_ids=[])
    assert slow.client.unfinished == 1


# -- calls ---------------------------------------------------------------------------------------


async def test_sleep_ends_requests_and_later_ones_wait_until_it_wakes(slow) -> None:
    await slow.do("add_request", request("a", LONG))
    await slow.do("get_output")
    assert await slow.do("is_sleeping") is False
    await slow.do("sleep", 1)
    assert await slow.do("is_sleeping") is True
    outputs = await slow.outputs()
    assert outputs[-1].finish_reason is FinishReason.ABORT
    await slow.do("add_request", request("b", 4))
    with pytest.raises(TimeoutError):
        await slow.do("get_output", 0.02)
    assert await slow.do("wake_up", ["weights"]) is False
    assert await slow.do("wake_up") is True
    assert await slow.do("is_sleeping") is False
    assert sum(len(output.new_token_ids) for output in await slow.outputs()) == 4


async def test_requests_that_stand_still_go_on_with_the_same_tokens(slow) -> None:
    want = await slow.tokens(request("a", 50))
    await slow.do("add_request", request("a", 50))
    got = list((await slow.do("get_output")).outputs)
    await slow.do("sleep", 2, "keep")
    await slow.do("wake_up")
    got += await slow.outputs()
    assert [token for output in got for token in output.new_token_ids] == want["a"]


async def test_sleeping_after_what_runs_waits_for_it(driver) -> None:
    await driver.do("add_request", request("a", 30))
    await driver.do("sleep", 1, "wait")
    assert await driver.do("is_sleeping") is True
    outputs = await driver.outputs()
    assert sum(len(output.new_token_ids) for output in outputs) == 30
    assert outputs[-1].finish_reason is FinishReason.LENGTH


async def test_pause_and_resume(driver) -> None:
    await driver.do("pause", "keep", clear_cache=False)
    await driver.do("add_request", request("a", 4))
    with pytest.raises(TimeoutError):
        await driver.do("get_output", 0.02)
    await driver.do("resume")
    assert sum(len(output.new_token_ids) for output in await driver.outputs()) == 4


async def test_a_reset_of_the_prefix_cache_says_whether_it_happened(slow) -> None:
    assert await slow.do("reset_prefix_cache") is True
    await slow.do("add_request", request("a", LONG))
    await slow.do("get_output")
    await slow.do("pause", "keep", clear_cache=False)
    assert await slow.do("reset_prefix_cache") is False
    assert await slow.do("reset_prefix_cache", True) is True
    await slow.do("resume")
    assert (await slow.do("get_output")).outputs[0].new_token_ids
    await slow.do("abort_requests", ["a"])


async def test_the_profiler_starts_once_and_its_stop_has_a_result(driver, tmp_path) -> None:
    await driver.do("profile", True, str(tmp_path / "steps"))
    with pytest.raises(EngineryError):
        await driver.do("profile")
    await driver.tokens(request("a", 10))
    assert await driver.do("profile", False)


async def test_a_dummy_batch_touches_no_request_and_is_refused_while_asleep(driver) -> None:
    await driver.do("execute_dummy_batch")
    await driver.do("sleep", 1)
    with pytest.raises(EngineryError):
        await driver.do("execute_dummy_batch")


async def test_health_stats_and_calls_by_name(driver) -> None:
    await driver.do("check_health")
    await driver.tokens(request("a", 3))
    assert (await driver.do("get_stats"))["finished_length"] == 1
    assert await driver.do("call_utility", "is_paused") is False
    with pytest.raises(UnsupportedOperation, match="dance"):
        await driver.do("call_utility", "dance")
    with pytest.raises(ValueError, match="level must be"):
        await driver.do("sleep", 9)
    with pytest.raises(ValueError, match="tags"):
        await driver.do("wake_up", ["everything"])


@pytest.mark.parametrize("kind", DRIVERS)
async def test_what_a_backend_lacks_raises(kind) -> None:
    async with Driver(kind, mock_config("support.core_backends:words")) as driver:
        for call in (("sleep", 1), ("reset_prefix_cache",), ("profile",), ("execute_dummy_batch",)):
            with pytest.raises(UnsupportedOperation):
                await driver.do(*call)
        with pytest.raises(UnsupportedOperation, match="not as tokens"):
            await driver.do("add_request", request("a"))
        await driver.do("add_request", EngineCoreRequest("a", prompt="one two three"))
        outputs = await driver.outputs()
        assert "".join(output.text for output in outputs) == "onetwothree"
        await driver.do("sleep", 0)  # every core can hold requests back
        assert await driver.do("is_sleeping") is True


# -- the end -------------------------------------------------------------------------------------


async def test_shutdown_ends_every_request_and_then_everything_says_closed(slow) -> None:
    for name in "abc":
        await slow.do("add_request", request(name, LONG))
    await slow.do("get_output")
    await slow.do("shutdown")
    await slow.do("shutdown")
    ends = Counter()
    while slow.client.unfinished:
        for output in (await slow.do("get_output")).outputs:
            if output.finish_reason is not None:
                ends[output.request_id, output.finish_reason] += 1
    assert ends == {(name, FinishReason.ABORT): 1 for name in "abc"}
    for call in (("get_output",), ("add_request", request("z")), ("is_sleeping",), ("resume",)):
        with pytest.raises(EngineClosedError):
            await slow.do(*call)
    assert await slow.do("abort_requests", ["a"]) == []


async def test_a_drain_lets_requests_finish_and_their_outputs_can_be_read_afterwards(
    driver,
) -> None:
    for name in "abc":
        await driver.do("add_request", request(name, 200))
    await driver.do("shutdown", None, "drain")
    tokens, reasons = Counter(), set()
    while driver.client.unfinished:
        for output in (await driver.do("get_output")).outputs:
            tokens[output.request_id] += len(output.new_token_ids)
            reasons.add(output.finish_reason)
    assert tokens == {"a": 200, "b": 200, "c": 200}
    assert reasons == {None, FinishReason.LENGTH}


@pytest.mark.parametrize("kind", DRIVERS)
async def test_a_drain_that_takes_too_long_aborts_the_rest(kind) -> None:
    async with Driver(kind, mock_config(step_ms=20)) as driver:
        await driver.do("add_request", request("a", LONG))
        await driver.do("get_output")
        await driver.do("shutdown", 0.05, "drain")
        outputs = await driver.outputs()
        assert outputs[-1].finish_reason is FinishReason.ABORT


async def test_sync_shutdown_works_on_every_client(slow) -> None:
    await slow.do("add_request", request("a", LONG))
    await slow.do("get_output")
    slow.client.shutdown()
    outputs = await slow.outputs()
    assert outputs[-1].finish_reason is FinishReason.ABORT
    with pytest.raises(EngineClosedError):
        await slow.do("get_output")


# -- all clients say the same ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_of_each():
    clients = [InprocClient(mock_config()), SyncMPClient(mock_config())]
    yield clients
    for client in clients:
        client.shutdown()


def said(client: EngineCoreClient, requests: list[EngineCoreRequest]) -> dict[str, tuple]:
    """Tokens, text and ends; of requests that do not depend on one another."""
    result: dict[str, tuple] = {}
    for each in requests:
        client.add_request(each)
        result[each.request_id] = ([], "", None)
    while client.unfinished:
        for output in client.get_output().outputs:
            tokens, text, _ = result[output.request_id]
            end = (output.finish_reason, output.stop_reason, output.num_output_tokens)
            result[output.request_id] = (tokens + output.new_token_ids, text + output.text, end)
    return result


REQUESTS = st.lists(
    st.builds(
        lambda prompt, tokens, seed, stop: (prompt, tokens, seed, stop),
        st.text(min_size=1, max_size=40),
        st.integers(1, 30),
        st.integers(0, 5) | st.none(),
        st.sampled_from([(), ("fox",), (" la", "ü")]),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(REQUESTS)
def test_inproc_and_sync_mp_say_the_same(one_of_each, wanted) -> None:
    def made() -> list[EngineCoreRequest]:
        return [
            EngineCoreRequest(
                f"r{number}",
                prompt=prompt,
                sampling_params=SamplingParams(max_tokens=tokens, seed=seed, stop=stop),
            )
            for number, (prompt, tokens, seed, stop) in enumerate(wanted)
        ]

    inproc, child = one_of_each
    assert said(inproc, made()) == said(child, made())


async def test_all_four_ways_say_the_same_for_the_same_seed() -> None:
    results = []
    for kind in DRIVERS:
        config = ClientConfig(max_batch_size=3, max_tokens=16, seed=11, timeout_s=30)
        async with Driver(kind, config) as driver:
            results.append(
                await driver.tokens(*(request(f"r{n}", 5 + 7 * n, 3 + 9 * n) for n in range(7)))
            )
    assert results[0] == results[1] == results[2] == results[3]
    async with Driver("sync_mp", ClientConfig(seed=12)) as driver:
        assert await driver.tokens(request("r0", 5, 3)) != {"r0": results[0]["r0"]}


# -- tasks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inproc_async", "async_mp"])
async def test_cancelling_get_output_loses_no_output(kind) -> None:
    async with Driver(kind, mock_config(step_ms=1)) as driver:
        await driver.do("add_request", request("a", 60))
        tokens: list[int] = []
        while driver.client.unfinished:
            fetching = asyncio.ensure_future(driver.do("get_output"))
            for _ in range(3):
                await asyncio.sleep(0)
            fetching.cancel()
            try:
                batch = await fetching
            except asyncio.CancelledError:
                batch = await driver.do("get_output")
            for output in batch.outputs:
                tokens += output.new_token_ids
        assert len(tokens) == 60


@pytest.mark.parametrize("kind", ["inproc_async", "async_mp"])
async def test_many_tasks_share_one_client(kind) -> None:
    async with Driver(kind) as driver:
        done: dict[str, int] = Counter()

        async def fetch() -> None:
            while driver.client.unfinished:
                try:
                    batch = await driver.do("get_output", 0.2)
                except TimeoutError:
                    continue
                for output in batch.outputs:
                    done[output.request_id] += len(output.new_token_ids)

        async def ask() -> None:
            for _ in range(10):
                assert await driver.do("is_sleeping") is False

        for number in range(20):
            await driver.do("add_request", request(f"r{number}", 20))
        await asyncio.gather(fetch(), fetch(), ask(), ask())
        assert done == {f"r{number}": 20 for number in range(20)}


async def test_an_async_client_belongs_to_the_loop_that_used_it_first() -> None:
    async with AsyncMPClient() as client:

        def elsewhere() -> None:
            asyncio.run(client.is_sleeping_async())

        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await asyncio.to_thread(elsewhere)
        assert await client.is_sleeping_async() is False


async def test_a_call_that_has_no_answer_in_time_is_a_timeout_and_the_next_one_works() -> None:
    for kind in ("sync_mp", "async_mp"):
        async with Driver(kind, mock_config(step_ms=2)) as driver:
            await driver.do("add_request", request("a", LONG))
            with pytest.raises(EngineError, match="no answer to sleep"):
                await driver.do("call_utility", "sleep", {"mode": "wait"}, 0.05)
            await driver.do("abort_requests", ["a"])
            while not await driver.do("is_sleeping"):
                pass
