"""Reading a stream from threads and tasks, and every way of leaving it."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from enginery.errors import EngineCrashed
from enginery.streaming import TokenStreamIterator
from enginery.streaming.feed import Delivery, TokenFeed
from enginery.streaming.iterator import TextBatchIterator

PATIENCE = 30.0


def filled(*words: str, reason: str | None = "stop", **named) -> TokenStreamIterator:
    stream = TokenStreamIterator(**named)
    for number, word in enumerate(words):
        stream.put(word, (number,))
    if reason is not None:
        stream.finish(reason)
    return stream


def told_of(stream: TokenStreamIterator) -> list[str]:
    """Grows when the producer is told that nobody reads."""
    told: list[str] = []
    stream.feed.on_abandon = lambda: told.append("abort")
    return told


def in_a_thread(work) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_what_was_put_is_read_and_the_last_one_says_why_it_is_the_last():
    stream = filled("a", "b")
    read = list(stream)
    assert [(t.text, t.token_id, t.index, t.finish_reason) for t in read] == [
        ("a", 0, 0, None),
        ("b", 1, 1, None),
        ("", None, 2, "stop"),
    ]
    assert stream.get_full_text() == "ab"
    assert (stream.total_tokens, stream.finish_reason) == (2, "stop")
    assert stream.time_to_first_token >= 0
    assert stream.tokens_per_second > 0
    assert stream.start_time <= stream.end_time


async def test_a_task_reads_the_same():
    assert [t.text async for t in filled("a", "b")] == ["a", "b", ""]


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_tokens_have_no_rate(number):
    assert filled(*"ab"[:number]).tokens_per_second is None


def test_a_thread_waits_for_tokens_of_another_thread():
    stream = TokenStreamIterator()
    turn = threading.Semaphore(0)

    def produce() -> None:
        for number in range(100):
            turn.acquire()
            stream.put(str(number), (number,))
        turn.acquire()
        stream.finish()

    producer = in_a_thread(produce)
    seen = []
    turn.release()
    for token in stream:
        seen += token.token_ids
        turn.release()
    producer.join(PATIENCE)
    assert seen == list(range(100))


async def test_a_task_waits_for_tokens_of_a_thread():
    stream = TokenStreamIterator()
    turn = threading.Semaphore(0)

    def produce() -> None:
        for number in range(100):
            turn.acquire()
            stream.put(str(number), (number,))
        turn.acquire()
        stream.finish()

    producer = in_a_thread(produce)
    seen = []
    turn.release()
    async for token in stream:
        seen += token.token_ids
        turn.release()
    producer.join(PATIENCE)
    assert seen == list(range(100))


async def test_a_thread_waits_for_tokens_of_this_loop():
    """What hung for ever in the streams that these come from."""
    stream = TokenStreamIterator()
    reading = asyncio.create_task(asyncio.to_thread(lambda: [t.text for t in stream]))
    for word in "abc":
        await asyncio.sleep(0)
        stream.put(word)
    stream.finish()
    assert "".join(await asyncio.wait_for(reading, PATIENCE)) == "abc"


async def test_a_loop_that_would_be_blocked_is_not():
    stream = filled("a")
    with pytest.raises(RuntimeError, match="use `async for`"):
        iter(stream)
    empty = TokenStreamIterator()
    with pytest.raises(RuntimeError, match="use `async for`"):
        next(empty)
    assert [t.text async for t in stream] == ["a", ""]


def test_a_second_reader_is_refused_at_once():
    stream = filled("a", "b")
    first = iter(stream)
    for again in (iter, aiter):
        with pytest.raises(RuntimeError, match="being read already"):
            again(stream)
    assert next(first).text == "a"


async def test_two_tasks_cannot_wait_for_one_stream():
    stream = TokenStreamIterator()
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another thread or task"):
        await anext(stream)
    stream.put("a")
    assert (await waiting).text == "a"


def test_tokens_come_one_at_a_time_by_next_too():
    stream = filled("a", "b", reason=None)
    assert next(stream).text == "a"
    assert next(iter(stream)).text == "b"


def test_a_break_tells_the_producer_though_the_stream_has_a_name():
    stream = filled("a", "b", reason=None)
    told = told_of(stream)
    for _ in stream:
        assert told == []
        break
    assert told == ["abort"]


async def test_a_break_in_a_task_tells_the_producer_at_once():
    stream = filled("a", "b", reason=None)
    told = told_of(stream)
    async for _ in stream:
        break
    assert told == ["abort"]


def test_an_exception_in_the_loop_tells_the_producer():
    stream = filled("a", reason=None)
    told = told_of(stream)
    with pytest.raises(ZeroDivisionError):
        [1 / token.index for token in stream]
    assert told == ["abort"]


def test_a_dropped_stream_tells_the_producer():
    stream = filled("a", reason=None)
    told = told_of(stream)
    del stream
    assert told == ["abort"]


def test_a_stream_that_is_dropped_in_a_circle_tells_the_producer():
    stream = filled("a", reason=None)
    told = told_of(stream)
    circle = [stream]
    circle.append(circle)
    del stream, circle
    gc.collect()
    assert told == ["abort"]


async def test_a_cancelled_reader_tells_the_producer():
    stream = TokenStreamIterator()
    told = told_of(stream)

    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["abort"]


def test_closing_ends_the_reading_and_drops_what_was_not_read():
    stream = filled("a", "b", "c", reason=None)
    told = told_of(stream)
    with stream:
        assert next(stream).text == "a"
    stream.close()
    assert told == ["abort"]
    assert list(stream) == []


async def test_closing_ends_a_reader_that_waits():
    stream = TokenStreamIterator()
    reading = asyncio.create_task(stream.acollect())
    await asyncio.sleep(0)
    async with stream:
        stream.put("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await asyncio.wait_for(reading, PATIENCE) == "a"


def test_a_stream_that_was_read_to_its_end_was_not_abandoned():
    stream = filled("a")
    told = told_of(stream)
    assert stream.collect() == "a"
    assert list(stream._hand) == []
    del stream
    assert told == []


def test_tokens_come_before_the_error_and_the_error_comes_once():
    stream = filled("a", "b", reason=None)
    error = EngineCrashed("it is gone")
    stream.error(error)
    assert [next(stream).text, next(stream).text] == ["a", "b"]
    with pytest.raises(EngineCrashed, match="it is gone"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.end_time is not None
    assert stream.finish_reason is None


def test_a_reader_that_sleeps_gets_every_token_merged():
    stream = TokenStreamIterator(buffer_size=4)
    for number in range(10_000):
        stream.put(f"{number},", (number,))
    stream.finish()
    read = list(stream)
    assert len(read) == 5
    assert [each for token in read for each in token.token_ids] == list(range(10_000))


async def test_a_task_is_woken_when_the_interval_is_over():
    feed = TokenFeed(delivery=Delivery(100, flush_s=0.001))
    stream = TokenStreamIterator(feed=feed)
    for word in "ab":
        stream.put(word)
    assert (await anext(stream)).text == "ab"
    stream.put("c")
    assert (await asyncio.wait_for(anext(stream), PATIENCE)).text == "c"


def test_a_thread_is_woken_when_the_interval_is_over():
    stream = TextBatchIterator(TokenFeed(delivery=Delivery(100, True, 0.001)))
    stream.feed.put("a")
    assert next(stream) == "a"


def test_batches_are_texts_and_none_is_empty():
    feed = TokenFeed(delivery=Delivery(2, True, 9.0))
    for word in "abcd":
        feed.put(word)
    feed.finish()
    assert list(TextBatchIterator(feed)) == ["ab", "cd"]


def test_a_constructor_that_fails_is_an_error_and_nothing_else():
    with pytest.raises(TypeError):
        TokenStreamIterator(sise=3)
