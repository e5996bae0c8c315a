"""Any bytes in, printable lines out."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import tracemalloc
from io import FileIO
from textwrap import dedent
from time import monotonic

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enginery.engine.logs import (
    BURST,
    BYTES_PER_LINE,
    KEPT_LINES,
    LAST_BYTES,
    LINES_PER_SECOND,
    MAX_LINE,
    TOLD_EVERY,
    EngineLog,
    LineBudget,
    LineSplitter,
    LogReader,
    plain,
)
from enginery.engine.process import EngineProcess
from enginery.values import StopPlan

FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

nasty = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"\r\n",
                b"\r",
                b"\n",
                b"\x1b[31m",
                b"\x1b]0;t\x07",
                b"\0",
                "é€😀".encode(),
                b"\xe2\x82",
            ]
        ),
    ),
    max_size=20,
).map(b"".join)


def lines_of(stream: bytes, cuts: list[int], max_line: int = MAX_LINE) -> list[str]:
    splitter, lines = LineSplitter(max_line), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines += splitter.feed(stream[start:end])
    return lines + splitter.feed(b"", final=True)


@given(nasty, st.data())
@example(b"a\r\nb", None)
def test_bytes_give_the_same_lines_however_they_are_cut(stream, data) -> None:
    if data is None:
        cuts = list(range(len(stream)))
    else:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    max_line = 10 if data is None else data.draw(st.sampled_from([1, 10, MAX_LINE]))
    assert lines_of(stream, cuts, max_line) == lines_of(stream, [], max_line)


@given(nasty)
def test_lines_are_the_decoded_text_between_line_ends(stream) -> None:
    text = stream.decode("utf-8", "backslashreplace")
    expected = [plain(line) for line in re.split(r"\r\n|\r|\n", text)]
    got = lines_of(stream, [])
    assert got in (expected, expected[:-1])  # nothing after the last line end is no line
    assert "".join(got) == "".join(expected)


@given(st.text())
def test_what_is_printed_is_safe_for_a_terminal(text) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", plain(text))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_printable_text_is_left_alone(text) -> None:
    assert plain(text) == text


@given(st.text("ab", max_size=40), st.integers(1, 12))
def test_nothing_is_lost_but_what_is_counted(line, max_line) -> None:
    (got,) = lines_of(line.encode() + b"\n", [], max_line)
    kept = line[:max_line]
    dropped = len(line) - len(kept)
    assert got == (f"{kept} … [{dropped} more characters]" if dropped else kept)


def test_a_progress_bar_is_a_line_each_time_it_is_drawn() -> None:
    assert lines_of(b"10%\r20%\r\n30%", []) == ["10%", "20%", "30%"]


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    assert lines_of(b"a\r\nb", [2]) == ["a", "b"]


def test_colours_titles_and_nul_are_taken_out() -> None:
    assert plain("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 \x1b(B\x1b[mnul\0\x1b7") == "red nul"


def test_bad_utf8_is_shown_as_escapes() -> None:
    assert lines_of(b"\xffa \xe2\x82", []) == ["\\xffa \\xe2\\x82"]


def test_a_line_of_fifty_megabytes_is_cut_and_costs_little() -> None:
    splitter, chunk = LineSplitter(), b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(800):
            assert splitter.feed(chunk) == []
        (line,) = splitter.feed(b"\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line == "x" * MAX_LINE + f" … [{800 * 65_536 - MAX_LINE} more characters]"
    assert peak < 2**20


def test_the_latest_lines_are_kept_and_empty_ones_dropped(caplog) -> None:
    seen: list[str] = []
    log = EngineLog("fake", seen.append)
    caplog.set_level(logging.INFO, "enginery.engine.fake")
    for number in range(KEPT_LINES + 5):
        log.add(str(number), logging.INFO)
        log.add("  ", logging.INFO)
    assert log.tail(2) == [str(KEPT_LINES + 3), str(KEPT_LINES + 4)]
    assert len(log.tail(10_000)) == KEPT_LINES
    assert log.tail(10_000)[0] == "5"
    assert log.tail(0) == []
    assert len(seen) == KEPT_LINES + 5 == len(caplog.messages)


@pytest.mark.parametrize("unfinished", [b"", b"last"])
async def test_a_pipe_is_read_to_its_end_and_every_byte_is_a_sign_of_life(unfinished) -> None:
    log = EngineLog("fake")
    read, write = os.pipe()
    reader = LogReader(log, logging.INFO)
    reader.read(pipe := FileIO(read, "rb"))
    os.write(write, b"one\n..." + unfinished)
    os.close(write)
    await reader.closed
    assert log.tail() == ["one", "..." + unfinished.decode()]
    assert log.bytes_seen == 7 + len(unfinished)
    assert pipe.closed
    reader.close()  # at any time, and again


async def test_a_reader_that_is_closed_before_the_end_shows_what_it_had_and_owns_nothing() -> None:
    log = EngineLog("fake")
    read, write = os.pipe()
    reader = LogReader(log, logging.INFO)
    reader.read(pipe := FileIO(read, "rb"))
    reader.feed(b"unfin")
    reader.close()
    assert log.tail() == ["unfin"]
    assert pipe.closed
    assert reader.closed.done()
    os.close(write)


# -- floods ------------------------------------------------------------------------------------

NOTE = re.compile(r"… \[(\d+) lines, (\d+) bytes not shown\]")
LINE = b"x" * 79 + b"\n"
CHUNK = LINE * 819  # 64 KiB, what a pipe gives at once


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 3000))))
def test_no_window_of_time_gets_more_than_the_burst_and_what_came_since(asked) -> None:
    budget, now, taken = LineBudget(), 100.0, 0.0
    for later, lines in asked:
        now += later
        if budget.take(lines, now):
            taken += lines
    assert taken <= BURST + (now - 100.0) * LINES_PER_SECOND + 1e-6


async def test_normal_output_is_never_left_out(fake_clock) -> None:
    log = EngineLog("fake", clock=fake_clock)
    reader = LogReader(log, logging.INFO)
    for second in range(20):  # a load that prints 1,500 lines at once, then 400 each second
        count = 1500 if second == 0 else 400
        for number in range(count):
            reader.feed(b"%d %d\n" % (second, number))
        assert log.tail(count) == [f"{second} {number}" for number in range(count)][-KEPT_LINES:]
        await fake_clock.advance(1.0)


async def test_a_flood_is_counted_and_once_a_second_told_with_its_end(fake_clock) -> None:
    seen: list[str] = []
    log = EngineLog("fake", seen.append, clock=fake_clock)
    reader = LogReader(log, logging.INFO)
    for _ in range(50):
        reader.feed(CHUNK)
    assert len(seen) == 2 * 819  # the burst has room for two chunks
    await fake_clock.advance(TOLD_EVERY)
    shown = LAST_BYTES // len(LINE)
    assert (
        seen[2 * 819] == f"… [{48 * 819 - shown} lines, {48 * 65520 - shown * 80} bytes not shown]"
    )
    assert seen[2 * 819 + 1 :] == ["x" * 79] * shown
    reader.feed(b"calm\n")
    assert seen[-1] == "calm"
    assert log.bytes_seen == 50 * len(CHUNK) + 5


async def test_in_a_flood_the_last_lines_are_there_whenever_they_are_asked_for(fake_clock) -> None:
    log = EngineLog("fake", clock=fake_clock)
    out, err = LogReader(log, logging.INFO), LogReader(log, logging.WARNING)
    for _ in range(50):
        out.feed(CHUNK)
    err.feed(CHUNK)
    out.feed(b"Traceback:\nlast words\n")
    assert "last words" in log.tail(60)  # the other pipe's end may come after
    out.feed(CHUNK + b"Traceback:\nlast words\n")
    assert log.tail(2) == log.tail(2) == ["Traceback:", "last words"]
    out.feed(CHUNK + b"cut sho")
    out.close()
    assert log.tail(1) == ["cut sho"]


@settings(max_examples=30, suppress_health_check=FIXTURE)
@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 2)), max_size=8), st.booleans())
def test_what_is_not_shown_is_counted(fake_clock, chunks, ask) -> None:
    async def run() -> None:
        seen: list[str] = []
        log = EngineLog("fake", seen.append, clock=fake_clock)
        reader = LogReader(log, logging.INFO)
        for lines, pause in chunks:
            reader.feed(b"12345\n" * lines)
            if ask:
                log.tail()
            await fake_clock.advance(pause)
        reader.close()
        notes = [NOTE.fullmatch(line) for line in seen]
        left_out = [tuple(map(int, note.groups())) for note in notes if note]
        total = sum(lines for lines, _ in chunks)
        assert seen.count("12345") + sum(lines for lines, _ in left_out) == total
        assert all(size == 6 * lines for lines, size in left_out)
        assert len(seen) == seen.count("12345") + len(left_out)

    asyncio.run(run())


@settings(max_examples=30, suppress_health_check=FIXTURE)
@given(st.lists(nasty.map(lambda piece: piece * 400), max_size=8))
def test_no_flood_raises_and_its_end_is_the_end(fake_clock, chunks) -> None:
    async def run() -> None:
        log = EngineLog("fake", clock=fake_clock)
        log.budget.take(BURST, fake_clock.now())
        reader = LogReader(log, logging.INFO)
        for chunk in chunks:
            reader.feed(chunk)
            await fake_clock.advance(0.3)
        reader.feed(b"\nthe end")
        reader.close()
        assert log.tail(1) == ["the end"]

    asyncio.run(run())


async def test_one_endless_line_is_a_flood_too(fake_clock) -> None:
    log = EngineLog("fake", clock=fake_clock)
    reader = LogReader(log, logging.INFO)
    reader.feed(b"begins ")
    for _ in range(800):
        reader.feed(b"x" * 65_536)
    reader.feed(b" ends\n")
    first, note, last = log.tail()
    affordable = int(BURST) * BYTES_PER_LINE // 65_536
    assert first.startswith("begins xxx")
    assert note.startswith("… [0 lines, ")
    assert int(NOTE.fullmatch(note)[2]) == (800 - affordable) * 65_536 + 6 - LAST_BYTES
    assert last.endswith("xxx ends")


# -- followers ---------------------------------------------------------------------------------


async def test_followers_get_every_line_from_now_on_until_the_log_is_closed() -> None:
    log = EngineLog("fake")
    log.add("before", logging.INFO)

    async def follow() -> list[str]:
        return [line async for line in log.follow()]

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    await asyncio.sleep(0)
    log.add("one", logging.INFO)
    await asyncio.sleep(0)
    log.add("two", logging.INFO)
    log.close()
    assert await asyncio.gather(*followers) == [["one", "two"]] * 3
    assert await follow() == []


async def test_a_slow_follower_holds_nobody_up_and_is_told_what_it_missed() -> None:
    log = EngineLog("fake")
    lines = log.follow()
    first = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    for number in range(KEPT_LINES + 10):
        log.add(str(number), logging.INFO)
    assert await first == "… [10 lines not shown]"
    log.close()
    assert [line async for line in lines] == [str(number + 10) for number in range(KEPT_LINES)]
    assert not log._followers


async def test_a_follower_that_leaves_is_forgotten() -> None:
    log = EngineLog("fake")
    lines = log.follow()
    line = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    log.add("one", logging.INFO)
    assert await line == "one"
    await lines.aclose()
    assert not log._followers


# -- a real flood ------------------------------------------------------------------------------

FLOOD = """
import os, signal, time
rate, over = 170e6, []  # 10 GB/min
signal.signal(signal.SIGTERM, lambda *_: over.append(True))
line = b"slot %6d | task 123 | prompt processing progress, n_past = 4096, n_tokens = 512\\n"
chunk = b"".join(line % n for n in range(65536 // len(line % 0)))
began, written, slowest = time.monotonic(), 0, 0.0
while not over:
    now = time.monotonic()
    if written > (now - began) * rate:
        time.sleep(0.001)
        continue
    written += os.write(1, chunk)
    slowest = max(slowest, time.monotonic() - now)
print(f"last words {written} {slowest}", flush=True)
"""


async def flood(*, seconds: float, turns: int, size: int) -> dict[str, float]:
    """What a flood of 170 MB/s costs, that lasts so long, so many turns of this loop, and so many bytes.

    A loop or an engine that stood still would make it last for ever.
    """
    words = ["-I", "-S", "-c", dedent(FLOOD)]
    plan = StopPlan(((signal.SIGTERM, 30.0),))
    process = EngineProcess(sys.executable, words, name="flood", stop_plan=plan)
    lags: list[float] = []
    me = psutil.Process()
    memory, cpu = me.memory_info().rss, sum(me.cpu_times()[:2])
    start = monotonic()
    await process.start()
    while monotonic() < start + seconds or len(lags) < turns or process.log.bytes_seen < size:
        began = monotonic()
        await asyncio.sleep(0.005)
        lags.append(monotonic() - began - 0.005)
    took = monotonic() - start
    await process.stop(timeout=30.0)
    assert str(process.exit) == "exit status 0"
    *_, written, slowest = process.log_tail(1)[0].split()
    lags.sort()
    return {
        "bytes per second": int(written) / took,
        "engine's slowest write": float(slowest),
        "median lag": lags[len(lags) // 2],
        "99 % lag": lags[len(lags) * 99 // 100],
        "largest lag": lags[-1],
        "memory": me.memory_info().rss - memory,
        "cpu": (sum(me.cpu_times()[:2]) - cpu) / took,
        "not read": int(written) - process.log.bytes_seen,
    }


async def test_a_real_flood_stops_neither_the_engine_nor_the_loop() -> None:
    cost = await flood(seconds=0.5, turns=40, size=40_000_000)
    assert cost["not read"] < 0  # the last words are more
    assert cost["memory"] < 32 * 2**20


@pytest.mark.heavy
async def test_a_flood_of_thirty_seconds_leaves_memory_flat(record_property) -> None:
    cost = await flood(seconds=30.0, turns=1000, size=500_000_000)
    record_property("cost", cost)
    assert cost["not read"] < 0
    assert cost["memory"] < 32 * 2**20
