"""What a token costs on its way to a reader: our iterator beside `asyncio.Queue`, in the same run.

Engines are left out: a thread or a task puts tokens, a task reads them. Ways take turns; numbers are medians of the
rounds, in microseconds for each token.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.tables import spread, table
from enginery.streaming import TokenFeed, TokenStreamIterator
from enginery.streaming.waiters import wake_all

__all__ = ["main"]

ROUNDS = 7
BURST = 20_000
STREAMS, STEPS = 64, 300
PUT_US, FAN_OUT_US, BURST_US = 1.2, 3.0, 1.5


def _in_a_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


async def _put_us() -> float:
    """A token put where nobody waits, and the merging of what there is no room for."""
    feed = TokenFeed()
    put = feed.put
    began = time.perf_counter()
    for number in range(BURST):
        put(" token", (number,))
    return 1e6 * (time.perf_counter() - began) / BURST


async def _queue_put_us() -> float:
    queue: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    put = queue.put_nowait
    began = time.perf_counter()
    for number in range(BURST):
        put((" token", number))
    return 1e6 * (time.perf_counter() - began) / BURST


async def _burst_us() -> float:
    """From a thread that never pauses to a task that reads."""
    stream = TokenStreamIterator()
    feed = stream.feed

    def work() -> None:
        for number in range(BURST):
            waiter = feed.put(" token", (number,))
            if waiter is not None:
                waiter.wake()
        last = feed.finish()
        if last is not None:
            last.wake()

    began, tokens = time.perf_counter(), 0
    thread = _in_a_thread(work)
    async for token in stream:
        tokens += len(token.token_ids)
    took = time.perf_counter() - began
    thread.join()
    assert tokens == BURST, tokens
    return 1e6 * took / BURST


async def _queue_burst_us() -> float:
    queue: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def work() -> None:
        for number in range(BURST):
            loop.call_soon_threadsafe(queue.put_nowait, (" token", number))

    began = time.perf_counter()
    thread = _in_a_thread(work)
    for _ in range(BURST):
        await queue.get()
    took = time.perf_counter() - began
    thread.join()
    return 1e6 * took / BURST


async def _fan_out_us() -> float:
    """64 streams get a token each for every step of a thread; the next step comes when all have read."""
    streams = [TokenStreamIterator() for _ in range(STREAMS)]
    feeds = [stream.feed for stream in streams]
    read = threading.Semaphore(0)
    left = 0

    async def reader(stream: TokenStreamIterator) -> None:
        nonlocal left
        async for token in stream:
            if token.finish_reason is None:
                left -= 1
                if not left:
                    read.release()

    def work() -> None:
        nonlocal left
        for number in range(STEPS):
            left, now = STREAMS, time.monotonic()
            put = [feed.put(" token", (number,), now=now) for feed in feeds]
            wake_all(waiter for waiter in put if waiter is not None)
            read.acquire()
        wake_all(waiter for feed in feeds if (waiter := feed.finish()) is not None)

    tasks = [asyncio.create_task(reader(stream)) for stream in streams]
    await asyncio.sleep(0)
    began = time.perf_counter()
    thread = _in_a_thread(work)
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    thread.join()
    return 1e6 * took / (STREAMS * STEPS)


async def _queue_fan_out_us() -> float:
    """The same, and the queues are filled by one call of the loop for each step."""
    queues: list[asyncio.Queue[tuple[str, int]]] = [asyncio.Queue() for _ in range(STREAMS)]
    loop = asyncio.get_running_loop()
    read = threading.Semaphore(0)
    left = 0

    async def reader(queue: asyncio.Queue[tuple[str, int]]) -> None:
        nonlocal left
        for _ in range(STEPS):
            await queue.get()
            left -= 1
            if not left:
                read.release()

    def step(number: int) -> None:
        for queue in queues:
            queue.put_nowait((" token", number))

    def work() -> None:
        nonlocal left
        for number in range(STEPS):
            left = STREAMS
            loop.call_soon_threadsafe(step, number)
            read.acquire()

    tasks = [asyncio.create_task(reader(queue)) for queue in queues]
    await asyncio.sleep(0)
    began = time.perf_counter()
    thread = _in_a_thread(work)
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    thread.join()
    return 1e6 * took / (STREAMS * STEPS)


WAYS: list[tuple[str, float, Callable[[], Awaitable[float]], Callable[[], Awaitable[float]]]] = [
    ("a token put (µs)", PUT_US, _put_us, _queue_put_us),
    (
        f"{STREAMS} streams, a token each for every step (µs)",
        FAN_OUT_US,
        _fan_out_us,
        _queue_fan_out_us,
    ),
    ("thread to task in a burst (µs)", BURST_US, _burst_us, _queue_burst_us),
]


async def main() -> bool:
    """Print the table; False when a goal is not met."""
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name, *_ in WAYS}
    for turn in range(ROUNDS + 1):
        for name, _, ours, theirs in WAYS:
            for measured, measure in zip(seen[name], (ours, theirs), strict=True):
                gc.collect()
                value = await measure()
                if turn:  # the first round warms up
                    measured.append(value)
    rows, held = [], True
    for name, goal, *_ in WAYS:
        ours_us, queue_us = seen[name]
        good = median(ours_us) <= goal
        held &= good
        met = (f"≤ {goal:g}", "yes" if good else "NO", f"{median(queue_us):.2f}")
        rows.append((name, *spread(ours_us, 2), *met))
    heads = ("streams", "median", "min", "max", "goal", "met", "asyncio.Queue")
    table(f"tokens to readers ({ROUNDS} rounds)", heads, rows)
    return held


if __name__ == "__main__":
    asyncio.run(main())
