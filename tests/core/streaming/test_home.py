"""The loop on which a source works: its own thread in a sync program, and how that ends."""

import asyncio
import threading

import pytest

from enginery.errors import EngineClosedError
from enginery.streaming.home import Home


def test_a_program_without_a_loop_gets_one_in_a_thread_of_its_own():
    home, names = Home(), []
    done = threading.Event()
    home.call(lambda: (names.append(threading.current_thread().name), done.set()))
    assert done.wait(20)
    home.close()
    assert names == ["enginery-streaming-loop"]


async def test_inside_a_running_loop_the_call_is_made_there_and_at_once():
    home, seen = Home(), []
    home.call(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]
    home.close()


def test_asking_for_the_end_again_while_the_last_task_tidies_up_does_not_cut_it_short():
    home, ended = Home(), []

    async def tell_the_engine() -> None:
        for _ in range(20):  # turns of the loop, most of them after it was first asked to end
            home.leave()
            await asyncio.sleep(0)
        ended.append(True)

    threads: list[threading.Thread] = []
    known = threading.Event()
    home.call(
        lambda: (
            threads.append(threading.current_thread()),
            known.set(),
            home.start(tell_the_engine()),
        )
    )
    assert known.wait(20)
    threads[0].join(20)
    home.close()
    assert ended == [True]


def test_a_task_that_does_not_end_is_cancelled(monkeypatch):
    monkeypatch.setattr("enginery.streaming.home.TASKS_PATIENCE", 0.01)
    home, ended = Home(), []
    started = threading.Event()

    async def waits() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    home.call(lambda: home.start(waits()))
    assert started.wait(20)
    home.close()
    assert ended == [True]


def test_a_closed_home_says_so():
    home = Home()
    home.close()
    home.close()
    with pytest.raises(EngineClosedError, match="closed"):
        home.call(lambda: None)
