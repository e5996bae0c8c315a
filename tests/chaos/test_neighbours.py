"""Two managers on one machine, and an application's own children: nobody touches what is another's.

The managers know the same models by the same names, and run the same engines. Whatever happens to one, the other
one's engine keeps its pid and answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from enginery import EngineManager, Settings
from enginery.engine.guardian import descendants
from enginery.engine.transport import open_session

PATIENCE = 30.0
MODELS = {
    "m": {"engine": "mock", "options": {"ttft_ms": 1, "itl_ms": 1, "fork_grandchild": "setsid"}},
    "other": {"engine": "mock", "options": {"ttft_ms": 1, "itl_ms": 1}},
}
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}

NEIGHBOUR = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_neighbours import live_by_orders
asyncio.run(live_by_orders())
"""


def settings() -> Settings:
    return Settings(models=MODELS, defaults={"min_residency": 0, "shutdown_timeout": 0.5})


async def ask(manager: EngineManager, model: str) -> int:
    """The pid of the engine that answered."""
    async with open_session() as session, manager.hold(model) as client:
        async with await client.forward_request(session, "", HELLO) as response:
            assert response.status == 200
            assert (await response.json())["choices"]
        return next(row.pid for row in manager.status() if row.model == model)


async def live_by_orders() -> None:
    """A manager that asks each model it is told on stdin, says whose pid answered, and ends with stdin."""
    loop = asyncio.get_running_loop()
    async with EngineManager(settings()) as manager:
        while model := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            print(await ask(manager, model), flush=True)


class Neighbour:
    """A manager in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def ask(self, model: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{model}\n".encode())
        async with asyncio.timeout(PATIENCE):
            return int(await self.process.stdout.readline())

    async def swap(self) -> None:
        await self.ask("other")

    async def shut_down(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert await self.process.wait() == 0

    async def be_killed(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def lose_its_engine(self) -> None:
        os.kill(await self.ask("m"), signal.SIGKILL)

    async def lose_a_guardian(self) -> None:
        os.kill(descendants(self.process.pid)[0], signal.SIGKILL)


@asynccontextmanager
async def neighbour() -> AsyncIterator[Neighbour]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEIGHBOUR, stdin=PIPE, stdout=PIPE
    )
    try:
        yield Neighbour(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(map(is_alive, pids)):
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "happening",
    [
        Neighbour.swap,
        Neighbour.shut_down,
        Neighbour.be_killed,
        Neighbour.lose_its_engine,
        Neighbour.lose_a_guardian,
    ],
    ids=lambda happening: happening.__name__,
)
async def test_whatever_happens_to_a_manager_the_engines_of_another_process_live_on(happening):
    async with neighbour() as one, neighbour() as two:
        first, second = await asyncio.gather(one.ask("m"), two.ask("m"))
        assert first != second
        family = descendants(one.process.pid)
        others = descendants(two.process.pid)
        await happening(one)
        if happening is not Neighbour.swap:
            await gone(family)
        assert await two.ask("m") == second
        assert descendants(two.process.pid) == others


async def test_two_managers_in_one_process_know_only_their_own_engines():
    async with EngineManager(settings()) as one:
        async with EngineManager(settings()) as two:
            first, second = await asyncio.gather(ask(one, "m"), ask(two, "m"))
            assert first != second
            await ask(two, "other")
            assert await ask(one, "m") == first, "a swap of the other one"
            os.kill(await ask(two, "other"), signal.SIGKILL)
            assert await ask(one, "m") == first, "a crash of the other one"
        assert await ask(one, "m") == first, "the shutdown of the other one"
        assert [row.restarts for row in one.status()] == [0]


def test_an_applications_own_children_are_never_reaped_by_us():
    """Children of every kind, dead and alive, through a load, a swap, a crash and a shutdown."""
    code = [sys.executable, "-I", "-S", "-c", "import sys; sys.exit(len(sys.stdin.read()))"]

    async def manage() -> int | None:
        awaited = await asyncio.create_subprocess_exec(*code, stdin=PIPE)
        async with EngineManager(settings()) as manager:
            await ask(manager, "m")
            os.kill(await ask(manager, "other"), signal.SIGKILL)
            await awaited.communicate(b"12345")
            await ask(manager, "m")
        return awaited.returncode

    # dead from the start: whoever waits for any child takes it
    spawned = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    with subprocess.Popen(code, stdin=PIPE) as plain:
        assert asyncio.run(manage()) == 5
        plain.communicate(b"123")
    assert plain.returncode == 3
    assert os.waitid(os.P_PID, spawned, os.WEXITED).si_status == 7
