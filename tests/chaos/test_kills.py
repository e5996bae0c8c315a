"""`kill -9` of anybody at any moment of an engine's life, seen from whoever uses it.

One manager with one mock engine, which double-forks a grandchild. Again and again somebody is killed while the engine
loads, rests, streams or stops: nothing outlives it, its port is free, no zombie is left, a stream that broke
off says so, and the next request is answered. ``tests/core/engine/test_guardian_kills.py`` does the same below
the manager, for the manager itself and for pairs.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from enginery import EngineManager, EngineryError, Settings
from enginery.engine.guardian import descendants
from enginery.engine.guardian.family import children
from enginery.engine.transport import open_session

STATES = ("loading", "idle", "streaming", "stopping")
VICTIMS = ("engine", "inner", "outer")
GONE_WITHIN = 20.0
"""Seconds; measured 0.1 to 1.3, the longest where an orphan's grace has to pass."""

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
LONG = {**HELLO, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
OPTIONS = {"ttft_ms": 1, "itl_ms": 1, "load_ms": 60, "fork_grandchild": "setsid"}


def family_of(before: set[int]) -> dict[str, int]:
    """Outer guardian, inner guardian and engine of the one engine that is there, as far as they are."""
    found, pid = {}, os.getpid()
    for name in ("outer", "inner", "engine"):
        below = [child for child in children(pid) if child not in before]
        if not below:
            break
        found[name] = pid = below[0]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def until(condition, what: str) -> float:
    """Seconds until ``condition`` held."""
    began = monotonic()
    while not condition():
        assert monotonic() < began + GONE_WITHIN, what
        await asyncio.sleep(0.005)
    return monotonic() - began


async def kill_in(
    state: str, victim: str, chance: random.Random, manager: EngineManager, before: set[int]
) -> float:
    """One kill; the seconds until nothing of that engine was left."""
    case = f"{victim} while {state}"
    async with open_session() as session:
        work: asyncio.Task | None = None
        if state == "loading":
            work = asyncio.create_task(manager.load("m"))
            await until(lambda: victim in family_of(before), case)
            await asyncio.sleep(chance.uniform(0.0, 0.1))
        else:
            client = await manager.ensure_engine("m")
        if state == "streaming":
            stream = await client.forward_request(session, "", LONG)
            for _ in range(chance.randrange(1, 6)):
                await stream.content.readany()
            work = asyncio.create_task(stream.read())
        if state == "stopping":
            work = asyncio.create_task(manager.unload("m"))
            await asyncio.sleep(chance.uniform(0.0, 0.02))
        family = family_of(before)
        everybody = [pid for pid in descendants(os.getpid()) if pid not in before]
        address = next(row.address for row in manager.status())
        if victim in family:
            with suppress(ProcessLookupError):
                os.kill(family[victim], signal.SIGKILL)
        took = await until(lambda: not any(map(is_alive, everybody)), f"{case}: left {everybody}")
        if work is not None:
            done, _ = await asyncio.wait({work}, timeout=GONE_WITHIN)
            assert done, case
            told = work.exception()
            if state == "streaming" and told is None:
                assert b"[DONE]" not in work.result(), "a broken stream that looks whole"
                assert b'"error"' in work.result(), "a broken stream without a word"
            assert isinstance(told, EngineryError | aiohttp.ClientError | None), told
        await until(lambda: set(children(os.getpid())) <= before, f"{case}: zombies")
        if address is not None:
            with pytest.raises(OSError, match=r"refused|failed"):
                await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        client = await manager.ensure_engine("m")
        async with await client.forward_request(session, "", HELLO) as response:
            assert response.status == 200, case
            assert (await response.json())["choices"], case
        await manager.unload("m")
    return took


async def kills(victim: str, numbers: range) -> float:
    slowest = 0.0
    limits = {"min_residency": 0, "stop_timeout": 1.0, "shutdown_timeout": 0.1}
    models = {"m": {"engine": "mock", "options": OPTIONS}}
    before = set(children(os.getpid()))
    async with EngineManager(Settings(models=models, defaults=limits)) as manager:
        for number in numbers:
            chance = random.Random(f"{victim} {number}")
            state = STATES[number % len(STATES)]
            slowest = max(slowest, await kill_in(state, victim, chance, manager, before))
    return slowest


@pytest.mark.parametrize("victim", VICTIMS)
async def test_whoever_is_killed_the_next_request_is_answered(victim, record_property) -> None:
    record_property("slowest", await kills(victim, range(len(STATES))))


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("victim", VICTIMS)
async def test_whoever_is_killed_a_hundred_times_it_is_answered(
    victim, chunk, record_property
) -> None:
    record_property("slowest", await kills(victim, range(25 * chunk, 25 * (chunk + 1))))
