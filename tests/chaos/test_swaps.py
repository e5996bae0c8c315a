"""Swaps under fire: a real manager, real mock engines, random kill -9, and every request counted twice.

Clients ask three models in random order while a killer takes engines and guardians away. Each request must end
exactly once at the client, reach an engine at most once (the mocks write a journal), and leave nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from enginery import EngineManager, EngineryError, Settings
from enginery.engine.guardian import descendants
from enginery.engine.transport import open_session

MODELS = {
    "plain": {},
    "stubborn": {"ignore_sigterm": True},
    "escaping": {"fork_grandchild": "setsid", "load_ms": 50},
}
CLIENTS = 6
ANSWER_WITHIN = 60.0
KILLS_PER_START = 2


class Battle:
    """One run. ``outcomes`` has one entry for each request that was made."""

    def __init__(self, manager: EngineManager, journal: Path, seed: int) -> None:
        self.manager = manager
        self.journal = journal
        self.random = random.Random(seed)
        self.outcomes: dict[str, str] = {}
        self.swaps = 0
        self.kills: Counter[str] = Counter()
        self.enough = asyncio.Event()
        self.others = descendants(os.getpid())
        """Other tests' fixtures."""

    async def count_swaps(self, wanted: int) -> None:
        async for event in self.manager.subscribe():
            if event.type == "instance.state" and event.data["state"] == "ready":
                self.swaps += 1
                if self.swaps >= wanted:
                    self.enough.set()
                    return

    async def client(self, session: aiohttp.ClientSession) -> None:
        while not self.enough.is_set():
            name = uuid.uuid4().hex
            model = self.random.choice(list(MODELS))
            body = {
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 5,
                "stream": self.random.random() < 0.5,
                "user": name,
            }
            self.outcomes[name] = "lost"
            async with asyncio.timeout(ANSWER_WITHIN):
                self.outcomes[name] = await self.ask(session, model, body)

    async def ask(self, session: aiohttp.ClientSession, model: str, body: dict) -> str:
        try:
            client = await self.manager.ensure_engine(model)
            async with await client.forward_request(session, "", body) as response:
                text = await response.text()
        except EngineryError as error:
            return error.code
        except aiohttp.ClientError:
            return "broken off"
        if response.status != 200:
            return f"HTTP {response.status}"
        return "ok" if '"finish_reason": "' in text or '"finish_reason":"' in text else "cut"

    async def killer(self) -> None:
        """Takes away an engine, or one of its guardians, every now and then.

        Not much more often than one is ready: where starting takes long, none would ever be.
        """
        while not self.enough.is_set():
            await asyncio.sleep(self.random.uniform(0.05, 0.7))
            if self.kills.total() > KILLS_PER_START * (self.swaps + 1):
                continue
            engines = [row.pid for row in self.manager.status() if row.pid is not None]
            everybody = [pid for pid in descendants(os.getpid()) if pid not in self.others]
            victims = everybody if self.random.random() < 0.5 else engines
            if victims:
                victim = self.random.choice(victims)
                self.kills["engine" if victim in engines else "guardian or child"] += 1
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)


async def fight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swaps: int, seed: int
) -> Battle:
    journal, mark = tmp_path / "journal", uuid.uuid4().hex
    monkeypatch.setenv("ENGINERY_MOCK_JOURNAL", str(journal))
    monkeypatch.setenv("ENGINERY_CHAOS", mark)
    settings = Settings(
        models={
            name: {"engine": "mock", "options": {"ttft_ms": 5, "itl_ms": 2, **options}}
            for name, options in MODELS.items()
        },
        defaults={"max_wait": 0.3, "min_residency": 0.1, "drain_timeout": 1, "stop_timeout": 0.2},
    )
    async with EngineManager(settings) as manager, open_session() as session:
        battle = Battle(manager, journal, seed)
        counting = asyncio.create_task(battle.count_swaps(swaps))
        fighters = [asyncio.create_task(battle.client(session)) for _ in range(CLIENTS)]
        fighters.append(asyncio.create_task(battle.killer()))
        try:
            await asyncio.gather(*fighters)
            calm = await battle.ask(
                session, "plain", {"messages": [{"role": "user", "content": "x"}]}
            )
            assert calm == "ok", "after all that, the next request is served"
            assert sum(row.in_flight for row in manager.status()) == 0
        finally:
            counting.cancel()
            for fighter in fighters:
                fighter.cancel()
    await nothing_is_left(mark)
    return battle


async def nothing_is_left(mark: str) -> None:
    """No process that carries our mark is alive, and no child of ours is a zombie, within 20 s."""
    deadline = time.monotonic() + 20.0
    while left := [*_marked(mark), *_zombies()]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        await asyncio.sleep(0.05)


def _marked(mark: str) -> list[str]:
    wanted = f"ENGINERY_CHAOS={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes():
                found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()[:120]!r}")
    return found


def _zombies() -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found.append(stat.parent.name)
    return found


def judge(battle: Battle) -> None:
    counts = Counter(battle.outcomes.values())
    received = Counter(battle.journal.read_text().split())
    print(f"{battle.swaps} starts, kills {dict(battle.kills)}, outcomes {dict(counts)}")
    assert counts["lost"] == 0
    assert counts["cut"] == 0, "a broken reply never looks whole"
    assert counts["ok"] > 0
    assert battle.kills.total() > 0
    twice = {
        name: count for name, count in received.items() if count > 1 and name in battle.outcomes
    }
    assert twice == {}, "an engine saw a request twice"
    unseen = [n for n, outcome in battle.outcomes.items() if outcome == "ok" and n not in received]
    assert unseen == []


@pytest.mark.timeout(300)
async def test_fifteen_swaps_under_fire_lose_nothing_and_leave_nothing(tmp_path, monkeypatch):
    judge(await fight(tmp_path, monkeypatch, swaps=15, seed=1))


@pytest.mark.heavy
@pytest.mark.timeout(550)
@pytest.mark.parametrize("seed", range(10, 20))
async def test_fifty_swaps_under_fire_lose_nothing_and_leave_nothing(tmp_path, monkeypatch, seed):
    judge(await fight(tmp_path, monkeypatch, swaps=50, seed=seed))
