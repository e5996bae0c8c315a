"""The end of real processes: the stop plan, and everything that an engine started."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from enginery.engine.process import DRAIN_OUTPUT
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

# -- stopping ----------------------------------------------------------------------------------


async def test_the_stop_plan_goes_signal_by_signal(eventually) -> None:
    script = """
    import os, signal, time
    for number in (signal.SIGINT, signal.SIGHUP):  # a print may come in the middle of another one
        signal.signal(number, lambda n, _: os.write(1, signal.Signals(n).name.encode() + b"\\n"))
    print("up", flush=True)
    while True:
        time.sleep(600)
    """
    plan = StopPlan(((signal.SIGINT, 0.05), (signal.SIGHUP, 0.05), (signal.SIGTERM, 5.0)))
    process = python(script, stop_plan=plan)
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    await process.stop()
    assert process.log_tail() == ["up", "SIGINT", "SIGHUP"]
    assert str(process.exit) == "killed by SIGTERM"


async def test_an_engine_that_ignores_sigterm_is_killed_within_its_plan(eventually) -> None:
    process = python(STUBBORN, stop_plan=StopPlan(((signal.SIGTERM, 10.0),)))
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    began = asyncio.get_running_loop().time()
    await process.stop(timeout=0.2)  # raises when the kill takes longer than its two seconds
    assert asyncio.get_running_loop().time() - began >= 0.2
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
    process = python(STUBBORN, stop_plan=StopPlan(((signal.SIGTERM, 0.3),)))
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    stops = [asyncio.create_task(process.stop()) for _ in range(3)]
    await eventually(lambda: process.log_tail() == ["up", "no"])
    stops[0].cancel()
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


async def test_an_exit_is_noticed_at_once_although_a_grandchild_holds_the_output(
    tmp_path, eventually
) -> None:
    loop, delays = asyncio.get_running_loop(), []
    for attempt in range(4):  # the best of four: the machine may be busy with other tests
        process = python(FAMILY + UP + "time.sleep(600)", tmp_path / f"pid{attempt}")
        await process.start()
        await eventually(lambda process=process: process.log_tail() == ["up"])
        os.kill(process.get_pid(), signal.SIGKILL)
        began = loop.time()
        await process.wait()
        delays.append(loop.time() - began)
        await process.stop()
    assert min(delays) < DRAIN_OUTPUT, "the output was waited for"


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
    plan = StopPlan(kill_after=8.0)
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
