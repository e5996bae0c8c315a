"""Streams over HTTP from a running engine, in sync and async programs; the mock says what it was asked."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from enginery.errors import EngineCrashed, EngineError, EngineryError, QueueFull
from enginery.streaming import StreamingConfig, StreamingEngine, http_source
from enginery_mock import MockEngine

PATIENCE = 30.0
PATIENT = StreamingConfig(flush_interval_ms=1e6)
PROMPT = "Say hello."
CHAT = [{"role": "user", "content": PROMPT}]
PARAMS = {"max_tokens": 20, "temperature": 0.0}


def until(true, timeout: float = PATIENCE):
    """Waits in a program without a loop."""
    deadline = time.monotonic() + timeout
    while not (value := true()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
    return value


def plain(mock, prompt) -> str:
    """The same without a stream."""
    if isinstance(prompt, str):
        _, reply = mock.get("/v1/completions", {"model": "m", "prompt": prompt, **PARAMS})
        return reply["choices"][0]["text"]
    _, reply = mock.get("/v1/chat/completions", {"model": "m", "messages": prompt, **PARAMS})
    return reply["choices"][0]["message"]["content"]


@pytest.mark.parametrize("prompt", [PROMPT, CHAT], ids=["completion", "chat"])
def test_a_sync_program_gets_the_plain_replys_text_in_all_three_ways(mock, prompt):
    text = plain(mock, prompt)
    with StreamingEngine(http_source(MockEngine(mock.url)), PATIENT) as engine:
        stream = engine.generate_stream(prompt, **PARAMS)
        tokens = list(stream)
        assert "".join(token.text for token in tokens) == stream.get_full_text() == text
        assert {token.token_id for token in tokens} == {None}
        assert (stream.total_tokens, stream.finish_reason) == (20, "length")
        assert stream.prompt_tokens
        calls: list[tuple] = []
        assert engine.generate_with_callback(prompt, lambda *c: calls.append(c), **PARAMS) == text
        assert [call[2] for call in calls] == [False] * (len(calls) - 1) + [True]
        batches = list(engine.generate_buffered(prompt, 6, **PARAMS))
        assert "".join(batches) == text
        assert len(batches) == 4
    assert not [t for t in threading.enumerate() if t.name.startswith("enginery-stream")]


async def test_an_async_program_gets_the_plain_replys_text_in_all_three_ways(mock):
    text = await asyncio.to_thread(plain, mock, CHAT)
    async with (
        MockEngine(mock.url) as client,
        StreamingEngine(http_source(client), PATIENT) as engine,
    ):
        assert await engine.generate_stream(CHAT, **PARAMS).acollect() == text
        calls: list[str] = []
        said = await engine.generate_with_callback_async(
            CHAT, lambda *call: calls.append(call[0]), **PARAMS
        )
        assert said == "".join(calls) == text
        assert "".join([each async for each in engine.generate_buffered(CHAT, **PARAMS)]) == text
        streams = [engine.generate_stream(CHAT, **PARAMS) for _ in range(8)]
        said = await asyncio.gather(*(stream.acollect() for stream in streams))
        assert said == [text] * 8
        stats = engine.get_stats()
        assert (stats["requests"], stats["active"], stats["tokens"]) == (11, 0, 220)
        assert stats["ttft_p50"] > 0
    assert len(asyncio.all_tasks()) == 1


def test_abandoned_streams_close_their_connections_and_leave_no_task(start):
    mock = start("--itl-ms", "5", "--slots", "4").wait_until_ready()
    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        for _ in range(40):
            for _ in engine.generate_stream(CHAT, max_tokens=100_000):
                break
        until(lambda: not engine.get_stats()["active"])
        until(lambda: not engine._source._works._home.tasks)
        until(lambda: not engine._source._works._live)
        assert engine.get_stats()["aborted"] == 40
        # all four slots are free again, or this would wait for ever
        streams = [engine.generate_stream(CHAT, **PARAMS) for _ in range(4)]
        assert len({stream.collect() for stream in streams}) == 1


async def test_a_cancelled_task_closes_its_connection(start, eventually):
    mock = start("--itl-ms", "5", "--slots", "1").wait_until_ready()
    async with (
        MockEngine(mock.url) as client,
        StreamingEngine(http_source(client)) as engine,
    ):
        stream = engine.generate_stream(CHAT, max_tokens=100_000)
        reading = asyncio.create_task(stream.acollect())
        await eventually(lambda: stream.total_tokens, PATIENCE)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await asyncio.wait_for(engine.generate_stream(CHAT, **PARAMS).acollect(), PATIENCE)


def test_an_engine_that_is_killed_raises_after_the_buffered_tokens(start):
    mock = start("--itl-ms", "2").wait_until_ready()
    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        stream = engine.generate_stream(CHAT, max_tokens=100_000)
        until(lambda: stream.total_tokens >= 5)
        mock.kill()
        until(lambda: stream.end_time)
        came, read = stream.total_tokens, []
        with pytest.raises(EngineCrashed):  # noqa: PT012  # where it raises is the point
            for token in stream:
                read += [token.text]
        assert "".join(read) == stream.get_full_text()
        assert came >= 5
        with pytest.raises(EngineryError):
            engine.generate_stream(CHAT).collect()
        assert engine.get_stats()["failed"] == 2


def test_an_engine_that_stops_in_the_middle_raises_after_what_it_said(start):
    mock = start("--die-at-frame", "4").wait_until_ready()
    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        stream = engine.generate_stream(CHAT, **PARAMS)
        with pytest.raises(EngineError):
            list(stream)
        assert stream.get_full_text()
        assert stream.finish_reason is None


def test_what_the_engine_refuses_comes_out_of_the_stream(mock):
    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        with pytest.raises(EngineError, match="answered 400"):
            engine.generate_stream([{"role": "user", "content": "word " * 4000}]).collect()
        assert engine.generate_stream(CHAT, **PARAMS).collect()


def test_a_reader_that_sleeps_gets_every_token_merged_and_may_slow_the_engine(mock):
    text = plain(mock, CHAT)
    for policy in ("coalesce", "block"):
        config = StreamingConfig(buffer_size=3, on_full=policy)
        with StreamingEngine(http_source(MockEngine(mock.url)), config) as engine:
            stream = engine.generate_stream(CHAT, **PARAMS)
            until(lambda s=stream: len(s.feed.unread) >= 3)
            assert stream.collect() == text
    config = StreamingConfig(buffer_size=3, on_full="abort")
    with StreamingEngine(http_source(MockEngine(mock.url)), config) as engine:
        stream = engine.generate_stream(CHAT, **PARAMS)
        until(lambda: stream.end_time)
        with pytest.raises(QueueFull):
            list(stream)
        assert text.startswith(stream.get_full_text())


def test_shutdown_ends_streams(start):
    mock = start("--itl-ms", "5").wait_until_ready()
    engine = StreamingEngine(http_source(MockEngine(mock.url)))
    stream = engine.generate_stream(CHAT, max_tokens=100_000)
    until(lambda: stream.total_tokens)
    engine.shutdown()
    assert list(stream)[-1].finish_reason == "abort"
    assert not engine.is_available


def test_an_async_callback_is_awaited_in_a_sync_program(mock):
    said: list[str] = []

    async def callback(token, token_id, is_finished, finish_reason=None) -> None:
        await asyncio.sleep(0)
        said.append(token)

    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        assert engine.generate_with_callback(CHAT, callback, **PARAMS) == "".join(said)


def test_what_a_callback_raises_ends_the_request_and_comes_out(start):
    mock = start("--itl-ms", "5").wait_until_ready()

    def callback(*_: object) -> None:
        raise KeyError("mine")

    with StreamingEngine(http_source(MockEngine(mock.url))) as engine:
        with pytest.raises(KeyError, match="mine"):
            engine.generate_with_callback(CHAT, callback, max_tokens=100_000)
        until(lambda: engine.get_stats()["aborted"] == 1)
