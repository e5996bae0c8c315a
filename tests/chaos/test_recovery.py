"""Each failure once, with real processes: what happens, and how long until the next request is answered.

With ``ENGINERY_RECOVERY=FILE`` in the environment every test appends its figures there; docs/operations.md is
written from such a file (``make recovery``).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from enginery import EngineManager, EngineryError, EngineStartFailed, EngineTimeout, Settings
from enginery.engine.guardian import descendants
from enginery.engine.transport import open_session
from support.gateways import serving

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
LONG = {**HELLO, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
FAST = {"ttft_ms": 1, "itl_ms": 1}
PATIENCE = 30.0
"""Seconds; measured 0.1 to 1.6."""


@pytest.fixture
def record(request) -> Callable[[str, str, float], None]:
    """`record(failure, behaviour, seconds)`: one row of the table."""

    def write(failure: str, behaviour: str, seconds: float) -> None:
        assert seconds < PATIENCE, f"{failure}: {seconds:.1f} s"
        if path := os.environ.get("ENGINERY_RECOVERY"):
            row = {"failure": failure, "behaviour": behaviour, "ms": round(1000 * seconds)}
            with Path(path).open("a") as results:
                results.write(json.dumps(row) + "\n")

    return write


@pytest.fixture
async def session():
    async with open_session() as session:
        yield session


def manager(**models) -> EngineManager:
    configured = {
        name: {"engine": "mock", "options": {**FAST, **options}} for name, options in models.items()
    }
    if "hanging" in configured:  # the others may take long to say a first word on a busy machine
        configured["hanging"]["load_stall"] = 0.5
    limits = {"min_residency": 0, "stop_timeout": 0.5, "shutdown_timeout": 0.1}
    return EngineManager(Settings(models=configured, defaults=limits))


async def answered(manager: EngineManager, session: aiohttp.ClientSession, model: str) -> float:
    """Seconds until a request for ``model`` is answered, from now."""
    began = time.perf_counter()
    client = await manager.ensure_engine(model)
    async with await client.forward_request(session, "", HELLO) as response:
        assert response.status == 200
        await response.read()
    return time.perf_counter() - began


def pid_of(manager: EngineManager, model: str) -> int:
    return next(row.pid for row in manager.status() if row.model == model)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def gone(*pids: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(_alive(pid) for pid in pids):
            await asyncio.sleep(0.002)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("whom", ["engine", "inner guardian", "outer guardian"])
@pytest.mark.parametrize("streaming", [False, True], ids=["idle", "streaming"])
async def test_kill_9_is_survived(record, session, whom, streaming):
    others = descendants(os.getpid())  # other tests' fixtures
    async with manager(m={"fork_grandchild": "setsid"}) as engines:
        client = await engines.ensure_engine("m")
        engine = pid_of(engines, "m")
        family = [pid for pid in descendants(os.getpid()) if pid not in others]
        victim = {
            "engine": engine,
            "inner guardian": parent_of(engine),
            "outer guardian": parent_of(parent_of(engine)),
        }[whom]
        stream = await client.forward_request(session, "", LONG) if streaming else None
        if stream is not None:
            await stream.content.readany()
        began = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        if stream is not None:
            with suppress(EngineryError, aiohttp.ClientError):
                await stream.read()
            stream.close()
        await gone(*family)
        assert await answered(engines, session, "m") > 0
        doing = "while it streams" if streaming else "idle"
        record(
            f"`kill -9` of the {whom}, {doing}",
            "nothing is left, an escaped grandchild neither; the next request starts it again",
            time.perf_counter() - began,
        )


MANAGER = """
import asyncio, json, sys
from enginery import EngineManager, Settings
async def main():
    models = {"m": {"engine": "mock", "options": {"fork_grandchild": "setsid"}}}
    async with EngineManager(Settings(models=models)) as manager:
        await manager.ensure_engine("m")
        print(manager.status()[0].pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_kill_9_of_the_manager_leaves_nothing(record):
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MANAGER, stdout=asyncio.subprocess.PIPE
    )
    assert victim.stdout is not None
    engine = int(await victim.stdout.readline())
    family = descendants(victim.pid)
    assert engine in family
    began = time.perf_counter()
    victim.kill()
    await victim.wait()
    await gone(*family)
    behaviour = "guardians end the engine and all that it started (time until nothing is left)"
    record("`kill -9` of the manager", behaviour, time.perf_counter() - began)


async def test_an_engine_that_ignores_sigterm_is_killed_for_a_swap(record, session):
    async with manager(stubborn={"ignore_sigterm": True}, other={}) as engines:
        await answered(engines, session, "stubborn")
        took = await answered(engines, session, "other")
        record("engine ignores SIGTERM on a swap", "SIGKILL after its stop plan (here 0.5 s)", took)


async def test_an_engine_that_exits_while_loading_is_told_at_once(record, session):
    async with manager(broken={"load_ms": 100, "load_exit_code": 3}, other={}) as engines:
        with pytest.raises(EngineStartFailed, match="exit status 3"):
            await engines.ensure_engine("broken")
        took = await answered(engines, session, "other")
        record("engine exits while it loads", "error with exit status and last log lines", took)


async def test_an_engine_that_hangs_while_loading_is_given_up(record, session):
    async with manager(hanging={"hang_in_load": True}, other={}) as engines:
        began = time.perf_counter()
        with pytest.raises(EngineTimeout, match="no sign of progress"):
            await engines.ensure_engine("hanging")
        await answered(engines, session, "other")
        took = time.perf_counter() - began
        record("engine hangs while it loads", "given up after `load_stall` (here 0.5 s)", took)


async def test_an_engine_that_crashes_in_a_reply_is_started_again(record, session):
    async with manager(m={"crash_after_tokens": 8}) as engines:
        client = await engines.ensure_engine("m")
        response = await client.forward_request(session, "", LONG)
        with pytest.raises((EngineryError, aiohttp.ClientError)):
            await response.read()
        began = time.perf_counter()
        await answered(engines, session, "m")
        took = time.perf_counter() - began
        record("engine crashes in the middle of a reply", "the reply ends in an error", took)


async def test_an_engine_that_is_well_and_generates_nothing_is_restarted(record, session):
    stuck = {"lie_on_health": "stuck", "stuck_after_requests": 1}
    async with serving({"m": {"options": stuck}}, first_byte=2.0) as gateway:
        path, body = f"{gateway.base_url}/v1/chat/completions", {**HELLO, "model": "m"}
        statuses = []
        for _ in range(3):
            began = time.perf_counter()
            async with session.post(path, json=body) as reply:
                statuses.append(reply.status)
                await reply.read()
        assert statuses == [200, 504, 200]
        record(
            "engine is well and generates nothing",
            "`engine_timeout` after `first_byte`; then no token in time (here 2 s), and a restart",
            time.perf_counter() - began,
        )


async def test_an_engine_that_floods_its_log_serves_all_the_same(record, session):
    async with manager(m={"flood_log": "max"}) as engines:
        took = await answered(engines, session, "m")
        record(
            "engine floods its log", "lines are dropped, requests are served (first answer)", took
        )


async def test_a_swap_waits_for_nobody_who_holds_the_old_engines_port(record, session):
    async with manager(holder={"hold_port": 5}, other={}) as engines:
        await answered(engines, session, "holder")
        port = int(next(row.address for row in engines.status()).rpartition(":")[2])
        took = await answered(engines, session, "other")
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        record(
            "engine leaves a process that holds its port", "it is killed, the port is free", took
        )
