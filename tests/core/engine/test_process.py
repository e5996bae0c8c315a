"""Real processes under real guardians: their life, starts that fail, and good manners."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys

import psutil
import pytest

from enginery.engine.process import EngineProcess, ExitStatus
from enginery.errors import EngineStartFailed
from enginery.values import StopPlan
from support.processes import (
    PYTHON,
    SLEEPER,
    descriptors,
    is_alive,
    our_children,
    python,
    sleeper,
)

pytestmark = pytest.mark.both_loops

# -- a life ------------------------------------------------------------------------------------


async def test_an_engine_runs_under_its_own_pid_until_it_is_stopped(eventually) -> None:
    process = sleeper()
    assert (process.get_status(), process.is_running, process.get_pid()) == ("stopped", False, None)
    await process.start()
    pid = process.get_pid()
    assert pid is not None
    assert psutil.Process(pid).cmdline()[1:] == SLEEPER
    assert (process.get_status(), process.is_running) == ("running", True)
    await eventually(lambda: process.log_tail() == ["up"])
    await process.stop()
    assert (process.get_status(), process.is_running, process.get_pid()) == ("stopped", False, None)
    assert process.exit == ExitStatus(signal=signal.SIGTERM)
    assert str(process.exit) == "killed by SIGTERM"
    assert process.log_tail() == ["up"]
    assert not is_alive(pid)


async def test_an_end_that_nobody_asked_for_is_a_crash_whatever_its_status() -> None:
    for code in (0, 3):
        process = python(f"raise SystemExit({code})")
        await process.start()
        assert await process.wait() == ExitStatus(code=code)
        assert process.get_status() == "crashed"
        await process.stop()
        assert process.get_status() == "crashed"
        assert str(process.exit) == f"exit status {code}"


async def test_a_signal_that_kills_an_engine_is_named() -> None:
    process = python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await process.start()
    assert str(await process.wait()) == "killed by SIGSEGV"
    await process.stop()


async def test_stdout_is_logged_at_info_and_stderr_at_warning(caplog) -> None:
    caplog.set_level(logging.DEBUG, "enginery.engine.fake")
    script = "import sys; print('said'); print('warned', file=sys.stderr)"
    levels = {}
    for level in ("warning", "info", "debug"):
        caplog.clear()
        process = python(script, log_level=level)
        await process.start()
        await process.wait()
        await process.stop()
        levels[level] = {r.message: r.levelname for r in caplog.records if r.name.endswith(".fake")}
    assert levels == {
        "warning": {"said": "INFO", "warned": "WARNING"},
        "info": {"said": "INFO", "warned": "INFO"},
        "debug": {"said": "DEBUG", "warned": "DEBUG"},
    }


async def test_the_last_words_are_there_when_the_end_is_told() -> None:
    seen: list[str] = []
    process = python("print('x' * 70_000); print('last words', end='')", on_line=seen.append)
    await process.start()
    await process.wait()
    assert process.log_tail(1) == ["last words"] == seen[-1:]
    await process.stop()


async def test_an_engines_output_can_be_followed_to_its_end() -> None:
    process = python("import time; print('one', flush=True); time.sleep(0.05); print('two')")

    async def follow() -> list[str]:
        return [line async for line in process.log.follow()]

    following = asyncio.create_task(follow())
    await process.start()
    assert await following == ["one", "two"]
    missing = EngineProcess("no-such-program-anywhere")
    following = asyncio.create_task(anext(missing.log.follow(), "nothing"))
    with pytest.raises(EngineStartFailed):
        await missing.start()
    assert await following == "nothing"
    await process.stop()


async def test_an_engine_gets_its_arguments_environment_and_directory_untouched(tmp_path) -> None:
    script = """
    import os, sys
    print(sys.argv[1:], os.environ["MARK"], os.getcwd(), os.environ["PATH"] == sys.argv[1])
    """
    odd = [os.environ["PATH"], "", "a b", "$HOME", "*", "ü\n", "{port}"]
    process = python(script, *odd, work_dir=tmp_path, env={"MARK": "ü"})
    await process.start()
    await process.wait()
    assert process.log_tail(1) == [f"{odd} ü {tmp_path} True"]
    await process.stop()


async def test_an_engine_leads_its_own_session_and_inherits_three_descriptors() -> None:
    process = python(
        "import os; print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:4])"
    )
    await process.start()
    await process.wait()
    # the fourth is the directory that is being read
    assert process.log_tail(1) == ["True [0, 1, 2, 3]"]
    await process.stop()


# -- starts that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("binary", "options", "says"),
    [
        ("no-such-program-anywhere", {}, "no-such-program-anywhere: No such file"),
        ("/etc/passwd", {}, "/etc/passwd: Permission denied"),
        (sys.executable, {"work_dir": "/no/such/dir"}, "/no/such/dir: No such file"),
        (sys.executable, {"env": {"A": "nul\0"}}, "NUL"),
        (sys.executable, {"args": ["a\0b"]}, "NUL"),
        (sys.executable, {"args": ["\ud800"]}, "surrogates"),
        (sys.executable, {"work_dir": "a\0b"}, "NUL"),
    ],
)
async def test_a_start_that_cannot_work_says_why_and_leaves_nothing(binary, options, says) -> None:
    children, fds = our_children(), descriptors()
    process = EngineProcess(binary, **options)
    with pytest.raises(EngineStartFailed, match=says):
        await process.start()
    assert process.get_status() == "stopped"
    await process.stop()  # nothing to do, and says so at once
    with pytest.raises(RuntimeError, match="never started"):
        await process.wait()
    await asyncio.sleep(0)
    assert our_children() == children
    assert descriptors() == fds


async def test_an_engine_process_starts_once() -> None:
    process = sleeper()
    await process.start()
    with pytest.raises(RuntimeError, match="started before"):
        await process.start()
    await process.stop()


async def test_a_process_that_was_never_started_cannot_be_awaited_but_can_be_stopped() -> None:
    process = sleeper()
    await process.stop()
    with pytest.raises(RuntimeError, match="never started"):
        await process.wait()


@pytest.mark.parametrize("turns", range(12))
async def test_a_start_cancelled_at_any_await_leaves_nothing(turns, eventually) -> None:
    children, fds = our_children(), descriptors()
    process = sleeper(stop_plan=StopPlan(((signal.SIGTERM, 2.0),)))
    start = asyncio.create_task(process.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await process.stop()
    del start, process
    gc.collect()
    await eventually(lambda: our_children() == children)
    await eventually(lambda: descriptors() == fds)


async def test_a_stop_in_the_middle_of_a_start_ends_what_it_started() -> None:
    children = our_children()
    process = sleeper()
    start = asyncio.create_task(process.start())
    await asyncio.sleep(0)
    await process.stop()
    await start
    assert process.get_status() == "stopped"
    assert process.exit is not None
    assert our_children() == children


# -- good manners ------------------------------------------------------------------------------


async def test_an_applications_own_children_are_left_to_it() -> None:
    own = await asyncio.to_thread(subprocess.Popen, [*PYTHON, "-c", "raise SystemExit(42)"])
    with own:
        process = sleeper()
        await process.start()
        await process.stop()
        assert own.wait() == 42


async def test_twenty_lives_leak_no_descriptor_and_no_zombie(eventually) -> None:
    async def live() -> None:
        process = sleeper()
        await process.start()
        await process.stop()

    await live()
    children = our_children()
    fds = descriptors()
    for _ in range(5):
        await asyncio.gather(*(live() for _ in range(4)))
    await eventually(lambda: descriptors() <= fds)
    assert our_children() == children
