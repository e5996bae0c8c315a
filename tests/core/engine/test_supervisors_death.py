"""The manager, or a guardian, dies: what becomes of real engines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.processes import (
    FAMILY,
    UP,
    is_alive,
    python,
    sleeper,
)

MANAGER = """
import asyncio, os, sys, time
from enginery.engine.process import EngineProcess

async def main():
    script, mark, fork = sys.argv[1:]
    process = EngineProcess(sys.executable, ["-I", "-S", "-c", script, mark], name="fake")
    await process.start()
    while process.log_tail() != ["up"]:
        await asyncio.sleep(0.005)
    heir = 0
    if fork == "fork":
        heir = os.fork()  # holds every descriptor that we hold
        if heir == 0:
            time.sleep(600)
    print(process.get_pid(), heir, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("fork", ["", "fork"])
@pytest.mark.parametrize("ignores", [False, True])
async def test_kill_9_of_the_manager_leaves_nothing_alive(
    fork, ignores, tmp_path, eventually
) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if ignores else ""
    script = FAMILY + ignore + UP + "time.sleep(600)"
    manager = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MANAGER, script, str(tmp_path / "pid"), fork),
        stdout=subprocess.PIPE,
    )
    assert manager.stdout is not None
    engine, heir = map(int, (await manager.stdout.readline()).split())
    grandchild = int((tmp_path / "pid").read_text())
    guardian = psutil.Process(engine).ppid()
    assert all(map(is_alive, (engine, grandchild, guardian)))
    manager.kill()
    try:
        await eventually(lambda: not any(map(is_alive, (engine, grandchild, guardian))))
    finally:
        if heir:
            os.kill(heir, signal.SIGKILL)
        await manager.communicate()


async def test_an_engine_has_two_guardians_until_it_ends() -> None:
    process = sleeper()
    assert process.guardian_pids == ()
    await process.start()
    outer, inner = process.guardian_pids
    engine = psutil.Process(process.get_pid())
    assert [parent.pid for parent in engine.parents()[:3]] == [inner, outer, os.getpid()]
    assert len({os.getsid(pid) for pid in (0, outer, inner, engine.pid)}) == 4
    await process.stop()
    assert process.guardian_pids == ()


@pytest.mark.parametrize(("which", "ends"), [(0, "SIGTERM"), (1, "SIGKILL")])
async def test_a_killed_guardian_takes_its_engine_along_and_the_other_one_tells_how(
    which, ends, tmp_path, eventually
) -> None:
    process = python(FAMILY + UP + "time.sleep(600)", tmp_path / "pid")
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    all_of_it = (process.get_pid(), *process.guardian_pids, int((tmp_path / "pid").read_text()))
    os.kill(process.guardian_pids[which], signal.SIGKILL)
    assert str(await process.wait()) == f"killed by {ends}"
    await process.stop()
    await eventually(lambda: not any(map(is_alive, all_of_it)))
    assert process.get_status() == "crashed"
    assert process.log_tail() == ["up"]


async def test_an_outer_guardian_that_is_asked_to_end_has_the_inner_one_do_it(eventually) -> None:
    process = sleeper()
    await process.start()
    await eventually(lambda: process.log_tail() == ["up"])
    os.kill(process.guardian_pids[0], signal.SIGTERM)
    assert str(await process.wait()) == "killed by SIGTERM"
    await process.stop()


async def test_when_both_guardians_are_killed_at_once_the_kernel_kills_the_engine(
    eventually,
) -> None:
    process = sleeper()
    await process.start()
    pid, pair = process.get_pid(), [psutil.Process(guardian) for guardian in process.guardian_pids]
    for guardian in pair:
        guardian.suspend()
    for guardian in pair:
        guardian.kill()
    assert str(await process.wait()) == "ended in an unknown way"
    await eventually(lambda: not is_alive(pid))
    await process.stop()


async def test_the_stop_command_runs_too_when_the_outer_guardian_has_to(tmp_path) -> None:
    mark = tmp_path / "stopped"
    process = sleeper(stop_argv=["/usr/bin/touch", str(mark)])
    await process.start()
    os.kill(process.guardian_pids[1], signal.SIGKILL)
    await process.wait()
    await process.stop()
    assert mark.exists()
