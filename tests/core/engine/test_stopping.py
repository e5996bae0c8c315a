"""The end of real processes: the stop plan, and everything that an engine started."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from enginery.values import StopPlan
from support.processes import (
    FAMILY,
    PYTHON,
    STUBBORN,
    UP,
    is_alive,
    python,
    sleeper,
)

pytestmark = pytest.mark.both_loops

KILL_AFTER = 30.0
"""Seconds that a busy machine has for what takes milliseconds."""

# -- stopping ----------------------------------------------------------------------------------


async def test_the_stop_plan_goes_signal_by_signal(eventually) -> None:
    script = """
    import os, signal
    ours = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    print("up", flush=True)
    while (number := signal.sigwait(ours)) != signal.SIGTERM:  # of several at once the smallest first
        print(signal.Signals(number).name, flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
    os.kill(os.getpid(), signal.SIGTERM)
    """
    # in the order in which they come out even where the engine sleeps through the pauses
    plan = StopPlan(((signal.SIGHUP, 0.05), (signal.SIGINT, 0.05), (signal.SIGTERM, 30.0)))
    process = python(script, stop_plan=plan)
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    await process.stop(timeout=60.0)
    assert process.log_tail() == ["up", "SIGHUP", "SIGINT"]
    assert str(process.exit) == "killed by SIGTERM"


async def test_an_engine_that_ignores_sigterm_is_killed_within_its_plan(eventually) -> None:
    process = python(STUBBORN, stop_plan=StopPlan(((signal.SIGTERM, 600.0),), KILL_AFTER))
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    began = asyncio.get_running_loop().time()
    await process.stop(timeout=1.0)  # raises when the kill takes longer than it may
    assert asyncio.get_running_loop().time() - began >= 1.0
    assert str(process.exit) == "killed by SIGKILL"
    assert process.log_tail() == ["up", "no"]
    assert process.get_status() == "stopped"


async def test_a_frozen_engine_is_killed_too(eventually) -> None:
    process = sleeper(stop_plan=StopPlan(((signal.SIGTERM, 0.1),)))
    await process.start()
    engine = psutil.Process(process.get_pid())
    engine.suspend()
    await eventually(lambda: engine.status() == psutil.STATUS_STOPPED)
    await process.stop()
    assert str(process.exit) == "killed by SIGKILL"


async def test_stopping_is_idempotent_concurrent_and_goes_on_when_a_caller_is_cancelled(
    eventually,
) -> None:
    process = python(STUBBORN, stop_plan=StopPlan(((signal.SIGTERM, 600.0),)))
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    stops = [asyncio.create_task(process.stop(timeout=600.0)) for _ in range(3)]
    await eventually(lambda: process.log_tail() == ["up", "no"])
    stops[0].cancel()
    os.kill(process.get_pid(), signal.SIGKILL)  # it needs no more patience
    done = await asyncio.gather(*stops, return_exceptions=True)
    assert [type(x) for x in done] == [asyncio.CancelledError, type(None), type(None)]
    assert process.get_status() == "stopped"
    await process.stop()
    assert process.log_tail() == ["up", "no"]  # one plan, carried out once


async def test_a_stop_whose_only_caller_is_cancelled_still_ends_the_engine(eventually) -> None:
    process = python(STUBBORN, stop_plan=StopPlan(((signal.SIGTERM, 0.1),)))
    await process.start()
    pid = process.get_pid()
    await eventually(lambda: process.log_tail() == ["up"])
    stop = asyncio.create_task(process.stop())
    await asyncio.sleep(0)
    stop.cancel()
    await eventually(lambda: not process.is_running and not is_alive(pid))
    await process.stop()


async def test_what_signals_do_not_reach_is_stopped_by_its_own_command(tmp_path) -> None:
    """A stop command may take longer than the plan's last wait: it is not a leak."""
    mark = tmp_path / "stopped"
    slow = f"import time, pathlib; time.sleep(0.4); pathlib.Path({str(mark)!r}).touch()"
    process = sleeper(stop_argv=[*PYTHON, "-c", slow], stop_plan=StopPlan(kill_after=0.1))
    await process.start()
    await process.stop()
    assert mark.exists()


# -- descendants -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["stop", "crash", "exit"])
async def test_a_grandchild_with_a_session_of_its_own_ends_with_its_engine(
    end, tmp_path, eventually
) -> None:
    after = {"stop": "time.sleep(600)", "exit": "", "crash": "os.abort()"}[end]
    process = python(FAMILY + after, tmp_path / "pid")
    await process.start()
    await eventually((tmp_path / "pid").exists)
    grandchild = int((tmp_path / "pid").read_text())
    if end == "stop":
        assert is_alive(grandchild)
    else:
        await process.wait()
    await process.stop()
    assert not is_alive(grandchild)


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_shared_memory_of_an_engines_processes_is_removed_whatever_they_died_of(
    end, eventually
) -> None:
    script = """
    import os, signal, sys, time
    from multiprocessing.shared_memory import SharedMemory
    if sys.argv[1] == "stop":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    memory = SharedMemory(create=True, size=4096)
    if os.fork():
        print(memory.name, flush=True)
    time.sleep(600)
    """

    async def left() -> bool:
        process = python(script, end, stop_plan=StopPlan(((signal.SIGTERM, 0.1),), KILL_AFTER))
        await process.start()
        await eventually(process.log_tail)
        name = process.log_tail()[0]
        assert name in shared_memory()
        if end == "kill":
            os.kill(process.get_pid(), signal.SIGKILL)
            await process.wait()
        await process.stop()
        return name in shared_memory()

    # who removes it has a second to do so, which a very busy machine may not give
    assert not (await left() and await left() and await left())


async def test_an_exit_is_noticed_at_once_although_a_grandchild_holds_the_output(
    tmp_path, eventually, monkeypatch
) -> None:
    monkeypatch.setattr("enginery.engine.process.DRAIN_OUTPUT", 600.0)
    process = python(FAMILY + UP + "time.sleep(600)", tmp_path / "pid")
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    os.kill(process.get_pid(), signal.SIGKILL)
    async with asyncio.timeout(30.0):  # the end of the output is not left to the grandchild
        await process.wait()
    await process.stop()


async def test_descendants_that_keep_forking_all_end(tmp_path, eventually) -> None:
    script = """
    import os, time
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            for _ in range(2000):  # a chain: each one forks its successor and goes
                if os.fork():
                    os._exit(0)
                time.sleep(0.005)
            os._exit(0)
    print("up", flush=True)
    time.sleep(600)
    """
    plan = StopPlan(kill_after=KILL_AFTER)
    process = python(script, env={"CHAIN_MARK": str(tmp_path)}, stop_plan=plan)
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    await process.stop()

    def marked() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"CHAIN_MARK={tmp_path}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    assert marked() == []
