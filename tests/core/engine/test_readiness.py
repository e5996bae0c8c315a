"""The rhythm of looking, and the two deadlines, on a clock that stands still."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.readiness import FRACTION, LONGEST, SHORTEST, next_look, wait_until_ready
from enginery.errors import EngineStartFailed, EngineTimeout
from enginery.values import Health


class Engine:
    """Health as a test sets it; remembers when it was looked at."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.health = Health("starting", detail="loading")
        self.bytes = 0
        self.felt: list[float] = []
        self.looks: list[float] = []
        self.hint = asyncio.Event()
        self.progress: list[Health] = []

    async def look(self) -> Health:
        self.looks.append(self.clock.now() - 1000.0)
        return self.health

    def signs(self) -> int:
        self.felt.append(self.clock.now() - 1000.0)
        return self.bytes

    def wait(self, stall: float = 60.0, cap: float = 1800.0) -> asyncio.Task[Health]:
        return asyncio.create_task(
            wait_until_ready(
                self.look,
                clock=self.clock,
                hint=self.hint,
                signs_of_life=self.signs,
                stall=stall,
                cap=cap,
                on_progress=self.progress.append,
            )
        )


@pytest.fixture
async def engine(fake_clock) -> Engine:
    return Engine(fake_clock)


@given(st.floats(0, 1e6))
def test_the_pause_is_a_fraction_of_the_time_waited_within_bounds(waited) -> None:
    pause = next_look(waited)
    assert SHORTEST <= pause <= LONGEST
    assert pause in {SHORTEST, LONGEST, FRACTION * waited}


async def test_an_engine_that_is_ready_is_found_at_the_first_look(engine) -> None:
    engine.health = Health("ready", detail="ok")
    assert await engine.wait() == engine.health
    assert engine.looks == [0.0]


async def test_looks_are_dense_at_first_and_rare_later(engine, fake_clock) -> None:
    waiting = engine.wait()
    await fake_clock.advance(0.05)
    assert len(engine.looks) >= 20
    gaps = [b - a for a, b in zip(engine.looks, engine.looks[1:], strict=False)]
    assert gaps == pytest.approx([SHORTEST] * len(gaps))
    await fake_clock.advance(29.95)
    latest = [b - a for a, b in zip(engine.looks[-5:], engine.looks[-4:], strict=False)]
    assert latest == pytest.approx([LONGEST] * 4)
    engine.health = Health("ready")
    await fake_clock.advance(LONGEST)
    assert await waiting == engine.health


async def test_a_hint_is_a_reason_to_look_now(engine, fake_clock) -> None:
    waiting = engine.wait()
    await fake_clock.advance(30.0)
    engine.health = Health("ready")
    engine.hint.set()
    await fake_clock.advance(0.0)
    assert waiting.done()
    assert engine.looks[-1] == pytest.approx(30.0)


async def test_a_hint_that_lied_costs_one_look(engine, fake_clock) -> None:
    waiting = engine.wait()
    await fake_clock.advance(30.0)
    looks = len(engine.looks)
    engine.hint.set()
    await fake_clock.advance(0.001)
    assert len(engine.looks) == looks + 1
    assert not engine.hint.is_set()
    waiting.cancel()


async def test_silence_ends_the_wait_and_the_error_says_what_the_engine_said_last(
    engine, fake_clock
) -> None:
    waiting = engine.wait(stall=10.0)
    await fake_clock.advance(9.9)
    assert not waiting.done()
    await fake_clock.advance(0.5)
    with pytest.raises(EngineTimeout, match=r"progress for 10 s .*load_stall.*: loading"):
        await waiting


async def test_output_is_a_sign_of_life_that_extends_the_wait(engine, fake_clock) -> None:
    waiting = engine.wait(stall=10.0)
    for _ in range(20):
        engine.bytes += 1
        await fake_clock.advance(9.0)
    assert not waiting.done()
    await fake_clock.advance(11.0)
    with pytest.raises(EngineTimeout):
        await waiting


async def test_signs_of_life_are_not_looked_for_at_every_dense_look(engine, fake_clock) -> None:
    waiting = engine.wait()
    await fake_clock.advance(1.0)
    gaps = [b - a for a, b in zip(engine.felt, engine.felt[1:], strict=False)]
    assert len(engine.looks) > 100
    assert 3 <= len(gaps) <= 4
    assert min(gaps) >= LONGEST
    waiting.cancel()


async def test_a_sign_of_life_since_the_last_one_was_looked_for_keeps_an_engine(
    engine, fake_clock
) -> None:
    waiting = engine.wait(stall=0.2)
    for _ in range(20):
        await fake_clock.advance(0.15)
        engine.bytes += 1
    assert not waiting.done()
    await fake_clock.advance(1.0)
    with pytest.raises(EngineTimeout, match="load_stall"):
        await waiting


async def test_progress_is_a_sign_of_life_and_is_told_once_for_each_change(
    engine, fake_clock
) -> None:
    waiting = engine.wait(stall=10.0)
    for percent in range(1, 5):
        engine.health = Health("starting", progress=percent / 100)
        await fake_clock.advance(9.0)
    assert not waiting.done()
    assert [health.progress for health in engine.progress] == [0.01, 0.02, 0.03, 0.04]
    waiting.cancel()


async def test_words_alone_are_no_progress(engine, fake_clock) -> None:
    waiting = engine.wait(stall=10.0)
    for number in range(20):
        engine.health = Health("starting", detail=f"attempt {number}")
        await fake_clock.advance(1.0)
    with pytest.raises(EngineTimeout, match="load_stall"):
        await waiting


async def test_the_cap_holds_whatever_progress_there_is(engine, fake_clock) -> None:
    waiting = engine.wait(stall=10.0, cap=30.0)
    for _ in range(31):
        engine.bytes += 1
        await fake_clock.advance(1.0)
    with pytest.raises(EngineTimeout, match=r"not ready after 30 s \(load_cap\); .*: loading"):
        await waiting


async def test_an_engine_that_says_it_failed_is_believed_at_once(engine) -> None:
    engine.health = Health("failed", detail="HTTP 401: wrong key")
    with pytest.raises(EngineStartFailed, match="not well: HTTP 401: wrong key"):
        await engine.wait()
    assert engine.looks == [0.0]


async def test_a_cancelled_wait_leaves_no_task_behind(engine, fake_clock) -> None:
    before = asyncio.all_tasks()
    waiting = engine.wait()
    await fake_clock.advance(1.0)
    waiting.cancel()
    await fake_clock.advance(0.0)
    assert waiting.cancelled()
    assert asyncio.all_tasks() == before
