"""SIGKILL for anybody at any moment, with real processes: nothing outlives the rest, all is told.

One kill is one forked manager that runs one `EngineProcess` and writes down what it sees. The engine
double-forks a grandchild with a session of its own and ignores SIGTERM every second time. What is left is
found by a mark in the environment, in all of /proc. Orphans whose every ancestor was killed end as
zombies of PID 1, which may not reap: no zombie counts but our managers' children.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from time import monotonic

import pytest

from enginery.engine.guardian.family import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no subreaper elsewhere")

TARGETS = ("manager", "outer", "inner", "engine", "manager+outer", "manager+inner")
STATES = ("starting", "running", "stopping")
WITHIN = 20.0
"""Seconds in which everything must be gone; measured 0.2 to 1.3, and what stays stays for 600."""

AT_ONCE = 5
"""Kills under way at the same time: most of one is waiting for a grace to pass."""

NURSERY = """
import asyncio, os, signal, sys
from enginery.engine.process import EngineProcess
from enginery.errors import EngineStartFailed
from enginery.values import StopPlan

ENGINE = '''
%s
(setsid sh -c 'echo $$ >"$0"; exec sleep 600' "$GRANDCHILD" &)
echo up
while :; do sleep 600; done
'''

async def live(said, state, mark, ignores):
    up = asyncio.Event()
    os.environ["KILL_MARK"] = mark  # the guardians have our environment, the engine its own
    process = EngineProcess(
        "/bin/sh",
        ["-c", ENGINE % ("trap '' TERM" if ignores else "")],
        env={"KILL_MARK": mark, "GRANDCHILD": said + ".grandchild"},
        name="fake",
        stop_plan=StopPlan(((signal.SIGTERM, 0.2),), kill_after=20.0),
        on_line=lambda _: up.set(),
    )
    out = open(said, "a", buffering=1)
    print("starting", os.getpid(), file=out)
    try:
        await process.start()
        if state != "starting":
            await up.wait()
            print(state, file=out)
        if state == "stopping":
            await process.stop()
        end = str(await process.wait())
        await process.stop()
    except EngineStartFailed as error:
        end = error.message.replace("\\n", " ")  # it ends with the engine's last lines, if any came
    print("ended", "|".join((end, process.get_status(), *process.log_tail())), file=out)
    await asyncio.sleep(600)

async def live_with(nursery, words):
    life = asyncio.create_task(live(*words[:3], words[3] == "True"))
    while os.getppid() == nursery:  # a test that failed leaves nothing either
        await asyncio.sleep(0.1)
    os._exit(1)

nursery = os.getpid()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # managers are reaped by the kernel
for line in sys.stdin:
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        asyncio.run(live_with(nursery, line.split()))
"""


@dataclass(frozen=True)
class Nursery:
    """A process that has imported everything and forks managers: a start in 5 ms, not in 300."""

    process: subprocess.Popen[str]
    directory: Path

    def order(self, name: str, state: str, *, ignores: bool) -> Path:
        assert self.process.stdin is not None
        said = self.directory / name
        self.process.stdin.write(f"{said} {state} {mark_of(said)} {ignores}\n")
        self.process.stdin.flush()
        return said


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, "-c", dedent(NURSERY)], stdin=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process, tmp_path)
        process.kill()


def mark_of(said: Path) -> str:
    return f"{said.parent}:{said.name}:"


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "gone"


def is_alive(pid: int) -> bool:
    return state_of(pid) not in ("Z", "X", "gone")


def survivors(said: Path) -> list[int]:
    """All living processes that carry the mark: guardians, engine, and whatever it started."""
    found, mark = [], f"KILL_MARK={mark_of(said)}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def family_of(manager: int) -> dict[str, int]:
    """Who there is by now of manager, outer, inner and engine."""
    found, pid = {"manager": manager}, manager
    for name in ("outer", "inner", "engine"):
        below = children(pid)
        if not below:
            break
        found[name] = pid = below[0]
    return found


def heard(said: Path, word: str) -> str | None:
    """What the manager wrote after ``word``; None while it has not."""
    for line in said.read_text().splitlines(keepends=True) if said.exists() else []:
        first, _, rest = line.rstrip("\n").partition(" ")
        if first == word and line.endswith("\n"):  # else it is half written
            return rest
    return None


async def until_heard(said: Path, word: str) -> str:
    deadline = monotonic() + 20.0
    while (rest := heard(said, word)) is None:
        assert monotonic() < deadline, f"{said.name}: never {word}"
        await asyncio.sleep(0.005)
    return rest


@asynccontextmanager
async def manager_of(said: Path) -> AsyncIterator[int]:
    manager = int(await until_heard(said, "starting"))
    try:
        yield manager
    finally:
        with suppress(ProcessLookupError):
            os.kill(manager, signal.SIGKILL)


async def kill_one(nursery: Nursery, target: str, number: int) -> float:
    """One kill; the seconds until nothing was left."""
    chance = random.Random(f"{target} {number}")
    state, ignores, victims = STATES[number % 3], bool(number % 2), target.split("+")
    case = f"{target} {number}: {state} {ignores=}"
    said = nursery.order(f"{target}-{number}", state, ignores=ignores)
    async with manager_of(said) as manager:
        if state == "starting":
            # the last victim comes last
            while victims[-1] not in family_of(manager) and heard(said, "ended") is None:
                await asyncio.sleep(0.001)
            await asyncio.sleep(chance.uniform(0.0, 0.06 if target == "manager" else 0.01))
        else:
            await until_heard(said, state)
            await asyncio.sleep(chance.uniform(0.0, 0.02))
        family = family_of(manager)  # not all of it, where it is starting or stopping
        for victim in chance.sample(victims, len(victims)):
            if victim in family:
                with suppress(ProcessLookupError):  # it ended just now
                    os.kill(family[victim], signal.SIGKILL)
        began = monotonic()
        while any(map(is_alive, list(family.values())[1:])) and monotonic() < began + WITHIN:
            await asyncio.sleep(0.01)
        while (left := survivors(said)) and monotonic() < began + WITHIN:
            await asyncio.sleep(0.05)
        took = monotonic() - began
        assert not left, f"{case}: {left} of {family}"
        if "manager" not in victims:
            while children(manager) and monotonic() < began + WITHIN:
                await asyncio.sleep(0.01)
            assert children(manager) == [], case  # zombies too
            end, status, *tail = (await until_heard(said, "ended")).split("|")
            if state != "starting":
                assert (status, tail) == (
                    "stopped" if state == "stopping" else "crashed",
                    ["up"],
                ), f"{case}: {end}"
    return took


async def kill_many(nursery: Nursery, target: str, numbers: range) -> float:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> float:
        async with turn:
            return await kill_one(nursery, target, number)

    return max(await asyncio.gather(*map(one, numbers)))


@pytest.mark.parametrize("target", TARGETS)
async def test_nothing_outlives_a_kill_and_its_end_is_told(target, nursery) -> None:
    assert await kill_many(nursery, target, range(6)) < WITHIN


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunk", range(6))
@pytest.mark.parametrize("target", TARGETS)
async def test_nothing_outlives_three_hundred_kills(
    target, chunk, nursery, record_property
) -> None:
    slowest = await kill_many(nursery, target, range(50 * chunk, 50 * (chunk + 1)))
    record_property("slowest", slowest)
    assert slowest < WITHIN


async def test_a_frozen_inner_guardian_does_not_save_an_engine_whose_manager_died(nursery) -> None:
    said = nursery.order("frozen", "running", ignores=False)
    async with manager_of(said) as manager:
        await until_heard(said, "running")
        assert set(family_of(manager).values()) < {manager, *survivors(said)}  # the mark is found
        assert len(survivors(said)) >= 5  # both guardians, the engine, its child, its grandchild
        os.kill(family_of(manager)["inner"], signal.SIGSTOP)
        os.kill(manager, signal.SIGKILL)
        began = monotonic()
        while (left := survivors(said)) and monotonic() < began + WITHIN:
            await asyncio.sleep(0.05)
        assert left == []
