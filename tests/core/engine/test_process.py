"""Real processes under real guardians. Engines here are small Python scripts."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from enginery.engine.control import Control
from enginery.engine.process import EngineProcess, ExitStatus
from enginery.errors import EngineStartFailed
from enginery.values import StopPlan

PYTHON = [sys.executable, "-I", "-S"]
SLEEPER = ["-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"no\\n"))  # a second print might meet the first
print("up", flush=True)
while True:
    time.sleep(600)
"""
FAMILY = """
import os, sys, time
def grandchild():  # double fork and a session of its own: no parent, no group leads to it
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(sys.argv[1] + ".new", "w") as out:
                out.write(str(os.getpid()))
            os.rename(sys.argv[1] + ".new", sys.argv[1])
            time.sleep(600)
        os._exit(0)
    os.wait()
grandchild()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
"""
UP = 'print("up", flush=True)\n'


def python(script: str, *args: object, **options: object) -> EngineProcess:
    words = ["-I", "-S", "-c", dedent(script), *map(str, args)]
    return EngineProcess(sys.executable, words, name="fake", **options)


def sleeper(**options: object) -> EngineProcess:
    return EngineProcess(sys.executable, SLEEPER, name="fake", **options)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def our_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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


def test_every_wait_status_has_words() -> None:
    assert str(ExitStatus()) == "ended in an unknown way"
    assert str(ExitStatus(signal=63)) == "killed by signal 63"
    assert ExitStatus.from_wait_status(9) == ExitStatus(signal=9)
    assert ExitStatus.from_wait_status(7 << 8) == ExitStatus(code=7)


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


async def test_the_first_exit_status_counts_and_none_is_no_reason_to_wait() -> None:
    """The outer guardian may tell again what the inner one told before it was killed."""
    control = Control(asyncio.get_running_loop())
    for words in (("started", "7", "6"), ("exited", "256"), ("exited", "9"), ("gone",)):
        payload = "\0".join(words).encode()
        control.data_received(len(payload).to_bytes(4, "big") + payload)
    assert control.started.result() == (7, 6)
    assert control.status == ExitStatus(code=1)
    assert control.gone.done()
    silent = Control(asyncio.get_running_loop())
    silent.data_received(b"\0\0\0\x04gone")
    assert silent.ended.done()
    with pytest.raises(EngineStartFailed, match="guardian"):
        silent.started.result()


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
    await process.stop(timeout=0.2)
    assert 0.2 <= asyncio.get_running_loop().time() - began < 2.2  # kill_after is 2 s
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
    for attempt in range(3):  # the best of three: the machine may be busy with other tests
        process = python(FAMILY + UP + "time.sleep(600)", tmp_path / f"pid{attempt}")
        await process.start()
        await eventually(lambda process=process: process.log_tail() == ["up"])
        os.kill(process.get_pid(), signal.SIGKILL)
        began = loop.time()
        await process.wait()
        delays.append(loop.time() - began)
        await process.stop()
    assert min(delays) < 0.1


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


# -- the manager's own death -------------------------------------------------------------------

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
        await eventually(
            lambda: not any(map(is_alive, (engine, grandchild, guardian))), timeout=3.0
        )
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
