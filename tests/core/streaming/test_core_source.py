"""Streams over engine cores, in this process and in children, from sync and async programs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import weakref

import psutil
import pytest

from enginery.enginecore import InprocClient, create_client
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    ContextLengthExceeded,
    EngineClosedError,
    EngineDeadError,
    InvalidRequest,
    QueueFull,
)
from enginery.streaming import StreamingConfig, StreamingEngine, core_source
from support.core_clients import PATIENCE, mock_config
from support.streams import CLIENTS, PROMPT, live_feeds, plain_reply, streaming

PARAMS = {"max_tokens": 40, "temperature": 0.0, "ignore_eos": True}
PATIENT = StreamingConfig(flush_interval_ms=1e6)


def until(true, timeout: float = PATIENCE):
    """Waits in a program without a loop."""
    deadline = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
    return value


def our_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("enginery-stream")]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_sync_program_gets_the_plain_replys_text_in_all_three_ways(kind):
    text, ids = plain_reply(**PARAMS)
    with streaming(kind, PATIENT) as (engine, _):
        stream = engine.generate_stream(PROMPT, **PARAMS)
        tokens = list(stream)
        assert "".join(token.text for token in tokens) == stream.get_full_text() == text
        assert [each for token in tokens for each in token.token_ids] == ids
        assert [token.finish_reason for token in tokens if token.finish_reason] == ["length"]
        assert (stream.total_tokens, stream.prompt_tokens) == (40, len(PROMPT))
        calls: list[tuple] = []
        said = engine.generate_with_callback(PROMPT, lambda *call: calls.append(call), **PARAMS)
        assert said == text == "".join(call[0] for call in calls)
        assert [call[2:] for call in calls] == [(False, None)] * (len(calls) - 1) + [
            (True, "length")
        ]
        batches = list(engine.generate_buffered(PROMPT, 7, **PARAMS))
        assert "".join(batches) == text
        if kind == "inproc":  # children may give several tokens together
            assert len(batches) == 6
    assert our_threads() == []


@pytest.mark.parametrize("kind", CLIENTS)
async def test_an_async_program_gets_the_plain_replys_text_in_all_three_ways(kind, eventually):
    text, ids = plain_reply(**PARAMS)
    client = create_client(kind, mock_config())
    async with StreamingEngine(core_source(client), PATIENT) as engine:
        tokens = [token async for token in engine.generate_stream(PROMPT, **PARAMS)]
        assert "".join(token.text for token in tokens) == text
        assert [each for token in tokens for each in token.token_ids] == ids
        calls: list[str] = []

        async def callback(token, token_id, is_finished, finish_reason=None) -> None:
            await asyncio.sleep(0)
            calls.append(token)

        assert await engine.generate_with_callback_async(PROMPT, callback, **PARAMS) == text
        assert "".join(calls) == text
        assert "".join([b async for b in engine.generate_buffered(PROMPT, 7, **PARAMS)]) == text
    client.shutdown()
    await eventually(lambda: not our_threads(), PATIENCE)


@pytest.mark.parametrize("kind", ["inproc", "async_mp"])
async def test_a_thread_reads_what_a_loops_program_streams(kind):
    text, _ = plain_reply(**PARAMS)
    client = create_client(kind, mock_config())
    async with StreamingEngine(core_source(client)) as engine:
        ways = [
            lambda: engine.generate_stream(PROMPT, **PARAMS).collect(),
            lambda: "".join(engine.generate_buffered(PROMPT, **PARAMS)),
            lambda: engine.generate_with_callback(PROMPT, lambda *_: None, **PARAMS),
        ]
        said = await asyncio.gather(*map(asyncio.to_thread, ways))
        assert said == [text] * 3
        with pytest.raises(RuntimeError, match="async for"):
            engine.generate_with_callback(PROMPT, lambda *_: None, **PARAMS)
    client.shutdown()


@pytest.mark.parametrize("kind", CLIENTS)
def test_several_streams_at_once_do_not_mix(kind):
    wanted = [plain_reply(f"prompt {n}", **PARAMS)[0] for n in range(12)]
    with streaming(kind) as (engine, _):
        streams = [engine.generate_stream(f"prompt {n}", **PARAMS) for n in range(12)]
        assert [stream.collect() for stream in streams] == wanted
        assert engine.get_stats()["requests"] == 12


def test_a_chat_is_its_messages_with_or_without_a_system_prompt():
    with streaming("inproc") as (engine, _):
        user = {"role": "user", "content": PROMPT}
        system = {"role": "system", "content": "Be brief."}
        one = engine.generate_stream([system, user], **PARAMS).collect()
        two = engine.generate_stream([user], system_prompt="Be brief.", **PARAMS).collect()
        three = engine.generate_stream(PROMPT, system_prompt="Be brief.", **PARAMS).collect()
        without = engine.generate_stream([user], **PARAMS).collect()
    assert one == two == three != without


def test_all_sampling_parameters_reach_the_engine():
    text, _ = plain_reply(**PARAMS)
    with streaming("inproc") as (engine, _):
        stop = text.split()[3]
        stream = engine.generate_stream(PROMPT, stop=[stop], **PARAMS)
        assert stream.collect() == text[: text.index(stop)]
        assert stream.finish_reason == "stop"
        other = engine.generate_stream(PROMPT, seed=99, **PARAMS).collect()
        assert other != text
        with pytest.raises(InvalidRequest, match="top_p"):
            engine.generate_stream(PROMPT, top_p=7)
        with pytest.raises(InvalidRequest, match="temprature"):
            engine.generate_stream(PROMPT, temprature=0)
        for bad in ("", [], ["hello"], 7 and [7]):
            with pytest.raises(InvalidRequest):
                engine.generate_stream(bad)
        with pytest.raises(InvalidRequest, match="one reply"):
            engine.generate_stream(PROMPT, n=2)
        assert engine.get_stats()["active"] == 0


@pytest.mark.parametrize("kind", CLIENTS)
def test_what_only_the_engine_finds_wrong_comes_out_of_the_stream(kind):
    with streaming(kind, max_model_len=16) as (engine, _):
        stream = engine.generate_stream("much too long for it")
        with pytest.raises(ContextLengthExceeded):
            list(stream)
        assert engine.generate_stream("hi", max_tokens=3, ignore_eos=True).collect()
        assert engine.get_stats()["failed"] == 1


class Gate:
    """A mock core whose steps are let through one by one."""

    def __init__(self) -> None:
        self.passes = threading.Semaphore(0)
        self.steps = 0

    def create(self):
        return create_backend(step_ms=1, sleep=self.step)

    def step(self, _: float) -> None:
        self.steps += 1
        self.passes.acquire()


@pytest.mark.parametrize("leave", ["break", "drop", "close", "cancel"])
def test_an_abandoned_stream_is_aborted_within_one_step(leave):
    gate = Gate()
    client = InprocClient(mock_config(gate.create))
    engine = StreamingEngine(core_source(client))
    gate.passes.release()
    stream = engine.generate_stream(PROMPT, max_tokens=1000, ignore_eos=True)
    if leave == "break":
        for _ in stream:
            break
    elif leave == "drop":
        next(stream)
        del stream
    elif leave == "close":
        next(stream)
        stream.close()
    else:

        async def cancelled() -> None:
            reading = asyncio.create_task(stream.acollect())
            while not stream.total_tokens or not stream.feed._reader:
                await asyncio.sleep(0.001)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

        asyncio.run(cancelled())
    until(lambda: not client._ledger._live)  # the abort is known; the step that runs may end
    until(lambda: gate.steps == 2)
    gate.passes.release()
    until(lambda: not client.unfinished)
    until(lambda: not engine.get_stats()["active"])
    assert gate.steps == 2
    assert engine.get_stats()["aborted"] == 1
    for _ in range(3):
        gate.passes.release()
    engine.shutdown()
    client.shutdown()


def abandon(engine, number: int, feeds) -> None:
    for _ in range(number):
        stream = engine.generate_stream(PROMPT, max_tokens=100_000, ignore_eos=True)
        feeds.add(stream.feed)
        for _ in stream:
            break


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "number", [200, pytest.param(10_000, marks=[pytest.mark.heavy, pytest.mark.timeout(550)])]
)
def test_abandoned_streams_leave_nothing(kind, number):
    feeds: weakref.WeakSet = weakref.WeakSet()
    with streaming(kind, max_model_len=200_000, step_ms=0.05) as (engine, client):
        abandon(engine, number // 10, feeds)
        until(lambda: not client.unfinished)
        before = psutil.Process().memory_info().rss
        abandon(engine, number, feeds)
        until(lambda: not client.unfinished)
        until(lambda: not engine.get_stats()["active"])
        until(lambda: not live_feeds(feeds))
        grown = psutil.Process().memory_info().rss - before
        stats = engine.get_stats()
        assert stats["requests"] == stats["aborted"] == number + number // 10
        assert engine.generate_stream(PROMPT, **PARAMS).collect() == plain_reply(**PARAMS)[0]
    assert grown < 16 * 2**20
    assert our_threads() == []


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "number", [100, pytest.param(10_000, marks=[pytest.mark.heavy, pytest.mark.timeout(550)])]
)
async def test_streams_that_tasks_abandon_leave_no_task(kind, number, eventually):
    client = create_client(kind, mock_config(max_model_len=200_000, step_ms=0.05))
    async with StreamingEngine(core_source(client)) as engine:
        for turn in range(number):
            stream = engine.generate_stream(PROMPT, max_tokens=100_000, ignore_eos=True)
            if turn % 3:
                async for _ in stream:
                    break
            else:
                task = asyncio.create_task(stream.acollect())
                await asyncio.sleep(0)
                task.cancel()
        del stream, task
        await eventually(lambda: not client.unfinished, PATIENCE)
        await eventually(lambda: not engine.get_stats()["active"], PATIENCE)
        await eventually(lambda: len(asyncio.all_tasks()) == 1, PATIENCE)
        assert engine.get_stats()["aborted"] == number
    client.shutdown()


@pytest.mark.parametrize("kind", ["sync_mp", "async_mp"])
def test_an_engine_that_is_killed_raises_after_the_buffered_tokens(kind):
    with streaming(kind, max_model_len=200_000, step_ms=1) as (engine, client):
        stream = engine.generate_stream(PROMPT, max_tokens=100_000, ignore_eos=True)
        until(lambda: stream.total_tokens >= 5)
        os.kill(client.pid, signal.SIGKILL)
        until(lambda: stream.end_time)
        came, read = stream.total_tokens, 0
        with pytest.raises(EngineDeadError):  # noqa: PT012  # where it raises is the point
            for token in stream:
                read += len(token.token_ids)
        assert read == came >= 5
        assert not engine.is_available
        with pytest.raises(EngineDeadError):
            engine.generate_stream(PROMPT).collect()


def test_a_core_that_fails_in_this_process_raises_after_the_buffered_tokens():
    with streaming("inproc", fail_at_step=6) as (engine, _):
        stream = engine.generate_stream(PROMPT, **PARAMS)
        read = []
        with pytest.raises(EngineDeadError, match="fails at step 6"):  # noqa: PT012  # same
            for token in stream:
                read += token.token_ids
        assert read == plain_reply(**PARAMS)[1][:5]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_reader_that_sleeps_gets_every_token(kind):
    wanted = plain_reply(max_tokens=2000, temperature=0, ignore_eos=True)
    with streaming(kind, StreamingConfig(buffer_size=5)) as (engine, _):
        stream = engine.generate_stream(PROMPT, 0, 2000, ignore_eos=True)
        until(lambda: stream.end_time)
        tokens = list(stream)
    assert len(tokens) <= 6
    assert "".join(token.text for token in tokens) == wanted[0]
    assert [each for token in tokens for each in token.token_ids] == wanted[1]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_reader_that_sleeps_makes_the_engines_tokens_wait(kind):
    config = StreamingConfig(buffer_size=5, on_full="block")
    with streaming(kind, config) as (engine, client):
        stream = engine.generate_stream(PROMPT, 0, 300, ignore_eos=True)
        until(lambda: len(stream.feed.unread) >= 5)
        assert client.unfinished
        text = stream.collect()
        assert text == plain_reply(max_tokens=300, temperature=0, ignore_eos=True)[0]
        left = engine.generate_stream(PROMPT, 0, 300, ignore_eos=True)
        until(lambda: len(left.feed.unread) >= 5)
        left.close()
        until(lambda: not client.unfinished)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_reader_that_sleeps_may_end_its_request(kind):
    config = StreamingConfig(buffer_size=5, on_full="abort")
    with streaming(kind, config, max_model_len=200_000, step_ms=1) as (engine, client):
        stream = engine.generate_stream(PROMPT, 0, 100_000, ignore_eos=True)
        until(lambda: stream.end_time)
        read = []
        with pytest.raises(QueueFull):  # noqa: PT012  # where it raises is the point
            for token in stream:
                read += token.token_ids
        assert len(read) >= 5
        assert read == plain_reply(max_tokens=len(read), temperature=0, ignore_eos=True)[1]
        until(lambda: not client.unfinished)


@pytest.mark.parametrize("kind", CLIENTS)
def test_shutdown_ends_streams_and_threads_and_leaves_the_client(kind):
    client = create_client(kind, mock_config(max_model_len=200_000, step_ms=1))
    engine = StreamingEngine(core_source(client))
    stream = engine.generate_stream(PROMPT, max_tokens=100_000, ignore_eos=True)
    until(lambda: stream.total_tokens)
    assert engine.is_available
    engine.shutdown()
    engine.shutdown()
    assert list(stream)[-1].finish_reason == "abort"
    assert not engine.is_available
    with pytest.raises(EngineClosedError):
        engine.generate_stream(PROMPT)
    assert our_threads() == []
    if client.has_sync:
        client.check_health()
    client.shutdown()


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_engine_that_is_dropped_leaves_no_thread(kind):
    client = create_client(kind, mock_config())
    engine = StreamingEngine(core_source(client))
    assert engine.generate_stream(PROMPT, **PARAMS).collect()
    del engine
    until(lambda: not our_threads())
    client.shutdown()


def test_a_client_that_was_shut_down_ends_the_streams():
    with streaming("sync_mp", max_model_len=200_000, step_ms=1) as (engine, client):
        stream = engine.generate_stream(PROMPT, max_tokens=100_000, ignore_eos=True)
        until(lambda: stream.total_tokens)
        client.shutdown()
        assert list(stream)[-1].finish_reason == "abort"
        with pytest.raises(EngineClosedError):
            engine.generate_stream(PROMPT).collect()


def test_a_generator_without_token_ids_streams_its_pieces():
    with streaming("sync_mp", backend="support.core_backends:words") as (engine, _):
        tokens = list(engine.generate_stream("one two three", max_tokens=None))
    assert "".join(token.text for token in tokens) == "onetwothree"
    assert {token.token_id for token in tokens} == {None}
