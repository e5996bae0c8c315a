"""What made other engine managers hang, leak or thrash, with real processes; and where each story is told.

`KNOWN` has one line for each failure of processes and swaps that their users reported, with the tests that show
that it cannot happen here: one over thousands of orders of events, one with real engines, or an older test that
already was the story.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import aiohttp
import psutil
import pytest

from enginery import EngineManager, EngineRequest, EngineStartFailed, Settings
from enginery.engine.guardian import descendants
from enginery.engine.launchers import EngineHandle, LocalLauncher
from enginery.engine.memory import LocalMemory
from enginery.engine.transport import open_session
from enginery_mock.devices import used

ROOT = Path(__file__).parents[2]
HERE = "tests/chaos/test_known_failures.py"
ORDERS = "tests/core/engine/test_interleavings.py"

KNOWN: Mapping[str, tuple[str, ...]] = {
    "llama-swap #946: a request that meets the idle timer finds a dead model": (
        f"{ORDERS}::test_a_request_within_50_ms_of_its_engines_idle_end_is_always_served",
        f"{HERE}::test_requests_around_the_idle_end_are_all_answered",
    ),
    "ollama #17408: a victim that is wanted again blocks the loader, and all others": (
        f"{ORDERS}::test_a_victim_that_is_wanted_again_while_it_goes_blocks_neither_the_loader_nor_others",
        f"{HERE}::test_a_victim_that_stays_wanted_blocks_neither_the_loader_nor_another_device",
    ),
    "ollama #14407: a saturated variant starves whoever needs the other one": (
        f"{ORDERS}::test_a_request_that_only_the_other_variant_fits_is_served_although_the_first_is_saturated_for_ever",
        f"{HERE}::test_a_long_prompt_is_served_although_the_small_variant_is_never_idle",
    ),
    "llama.cpp #28443: of two that come together, one waits for ever": (
        f"{ORDERS}::test_two_that_come_together_while_an_idle_engine_is_in_the_way_are_both_served",
        f"{HERE}::test_two_that_come_together_are_both_answered",
    ),
    "llama.cpp #28698: a model is evicted before the request that loaded it was sent": (
        f"{ORDERS}::test_a_cold_models_request_is_answered_before_a_later_one_may_evict_it",
        f"{HERE}::test_a_cold_model_answers_before_it_makes_room",
    ),
    "llama-swap #804: stopping waits for a grandchild that holds the pipes": (
        f"{HERE}::test_an_engine_behind_a_shell_is_stopped_with_everything_that_holds_its_pipes",
        "tests/core/engine/test_stopping.py::test_an_exit_is_noticed_at_once_although_a_grandchild_holds_the_output",
    ),
    "llama-swap #97: the next engine loads before the memory is back": (
        "tests/core/engine/test_manager_rest.py::test_the_next_load_waits_until_the_memory_is_back",
        f"{HERE}::test_the_next_engine_starts_only_when_the_memory_of_the_last_is_back",
    ),
    "vllm #55510: the leader is killed, its group lives on": (
        "tests/chaos/test_recovery.py::test_kill_9_is_survived",
        "tests/core/engine/test_guardian_kills.py::test_nothing_outlives_a_kill_and_its_end_is_told",
    ),
    "unsloth #7182: two managers on one machine end each other's engines": (
        "tests/chaos/test_neighbours.py::test_whatever_happens_to_a_manager_the_engines_of_another_process_live_on",
        "tests/chaos/test_neighbours.py::test_two_managers_in_one_process_know_only_their_own_engines",
    ),
    "LocalAI #10719: a broken model that is polled is started every time": (
        f"{ORDERS}::test_a_broken_model_that_is_polled_costs_one_start_per_back_off_and_others_do_not_notice",
        f"{HERE}::test_a_broken_model_that_is_polled_is_started_once_per_back_off",
    ),
    "llama-swap: the eleventh request at once is refused": (
        f"{ORDERS}::test_two_hundred_at_once_wait_and_only_those_over_the_bound_are_refused",
        f"{HERE}::test_two_hundred_at_once_are_all_answered",
    ),
    "ollama #12783: a small request reloads the model that is there": (
        f"{ORDERS}::test_a_small_request_uses_the_large_variant_that_is_there_and_nothing_is_loaded",
        f"{HERE}::test_a_small_prompt_is_answered_by_the_large_variant_that_is_there",
    ),
}

PATIENCE = 30.0
FAST = {"ttft_ms": 1, "itl_ms": 1}
QUICK = {"max_wait": 0.3, "min_residency": 0.1, "drain_timeout": 5, "shutdown_timeout": 0.5}


@pytest.mark.parametrize("failure", KNOWN)
def test_each_known_failure_has_tests_that_exist(failure):
    for name in KNOWN[failure]:
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        found = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert test in found, name


class Watched(LocalLauncher):
    """This machine, with devices that the mocks pretend; ``launches`` has what was in use at each launch."""

    def __init__(self, devices: Path) -> None:
        super().__init__(LocalMemory([self]))
        self.devices = devices
        self.launches: list[tuple[str, float, dict[str, int]]] = []

    def free(self) -> dict[str, int]:
        return {"gpu0": 100 - used(self.devices).get("gpu0", 0)}

    def held_by(self, pids: Iterable[int]) -> dict[str, int]:
        return {}

    async def launch(self, command, endpoint, name, on_line) -> EngineHandle:
        self.launches.append((name, monotonic(), used(self.devices)))
        return await super().launch(command, endpoint, name, on_line)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Watched:
    monkeypatch.setenv("ENGINERY_MOCK_DEVICES", str(tmp_path))
    return Watched(tmp_path)


@pytest.fixture
async def session():
    async with open_session() as session:
        yield session


def mock(**options: Any) -> dict[str, Any]:
    return {"engine": "mock", "options": {**FAST, **options}}


def managing(
    machine: Watched,
    models: Mapping[str, Any],
    budget: Mapping[str, int] | None = None,
    **defaults: Any,
) -> EngineManager:
    settings = Settings(models=models, budget=budget, defaults={**QUICK, **defaults})
    return EngineManager(settings, launchers=[machine])


async def ask(
    manager: EngineManager, session: aiohttp.ClientSession, model: str, words: int = 1
) -> str:
    """The variant that answered."""
    messages = [{"role": "user", "content": "hello " * words}]
    request = EngineRequest("/v1/chat/completions", {"messages": messages, "max_tokens": 5})
    async with asyncio.timeout(PATIENCE), await manager.acquire(request, model) as lease:
        async with await lease.client.forward_request(session, "", request.body) as response:
            assert response.status == 200, await response.text()
            assert (await response.json())["choices"][0]["finish_reason"]
        return lease.client.variant.name


async def keep_asking(manager: EngineManager, session: aiohttp.ClientSession, model: str) -> None:
    while True:
        await ask(manager, session, model)


@pytest.mark.parametrize(
    "rounds", [10, pytest.param(60, marks=[pytest.mark.heavy, pytest.mark.timeout(120)])]
)
async def test_requests_around_the_idle_end_are_all_answered(machine, session, rounds):
    random, idle = Random(rounds), 0.1
    async with managing(machine, {"m": mock()}, ttl=idle) as manager:
        for _ in range(rounds):
            await ask(manager, session, "m")
            await asyncio.sleep(idle + random.uniform(-0.05, 0.05))  # the time is the subject
            await asyncio.gather(*(ask(manager, session, "m") for _ in range(random.randint(1, 3))))
    assert len(machine.launches) > 1, "it was stopped for being idle, more than once"


async def test_a_victim_that_stays_wanted_blocks_neither_the_loader_nor_another_device(
    machine, session
):
    models = {
        "victim": mock(memory={"gpu0": 6}),
        "loader": mock(memory={"gpu0": 6}),
        "elsewhere": mock(memory={"gpu1": 6}),
    }
    async with managing(machine, models, {"gpu0": 10, "gpu1": 10}) as manager:
        await ask(manager, session, "victim")
        fans = [asyncio.create_task(keep_asking(manager, session, "victim")) for _ in range(3)]
        await asyncio.gather(ask(manager, session, "loader"), ask(manager, session, "elsewhere"))
        await ask(manager, session, "loader")
        for fan in fans:
            assert not fan.done(), fan
            fan.cancel()
        await asyncio.wait(fans)
        assert "elsewhere" in {row.model for row in manager.status() if row.state == "ready"}


VARIANTS = {
    "m": {
        "engine": "mock",
        "variants": {
            "small": {"context_length": 64, "options": FAST},
            "large": {"context_length": 4096, "options": FAST},
        },
    }
}


async def test_a_long_prompt_is_served_although_the_small_variant_is_never_idle(machine, session):
    async with managing(machine, VARIANTS) as manager:
        assert await ask(manager, session, "m") == "small"
        crowd = [asyncio.create_task(keep_asking(manager, session, "m")) for _ in range(4)]
        assert await ask(manager, session, "m", words=500) == "large"
        for one in crowd:
            assert not one.done(), one
            one.cancel()
        await asyncio.wait(crowd)


async def test_a_small_prompt_is_answered_by_the_large_variant_that_is_there(machine, session):
    async with managing(machine, VARIANTS) as manager:
        await ask(manager, session, "m", words=500)
        answered = await asyncio.gather(*(ask(manager, session, "m") for _ in range(5)))
    assert answered == ["large"] * 5
    assert [name for name, _, _ in machine.launches] == ["m/large"]


@pytest.mark.parametrize("play", range(3))
async def test_two_that_come_together_are_both_answered(machine, session, play):
    async with managing(machine, {"a": mock(), "b": mock(), "c": mock()}) as manager:
        await ask(manager, session, "a")
        await asyncio.gather(
            *(ask(manager, session, model) for model in ("bc", "cb", "bcbc")[play])
        )


async def test_a_cold_model_answers_before_it_makes_room(machine, session):
    models = {"cold": mock(load_ms=150), "later": mock()}
    async with managing(machine, models, drain_timeout=PATIENCE) as manager:
        order: list[str] = []
        events = manager.subscribe()
        cold = asyncio.create_task(ask(manager, session, "cold"))
        while not machine.launches:
            await asyncio.sleep(0)
        await ask(manager, session, "later")
        await cold
        async with asyncio.timeout(PATIENCE):
            while order[-1:] != ["stopped"]:
                event = await anext(events)
                if event.model == "cold":
                    order.append(event.data.get("state") or event.type)
        assert order.index("request.granted") < order.index("draining")
        assert order.index("request.finished") < order.index("stopping")


@pytest.mark.parametrize("deaf", [[], ["--never-die"]], ids=["", "deaf to signals"])
async def test_an_engine_behind_a_shell_is_stopped_with_everything_that_holds_its_pipes(
    machine, session, deaf
):
    engine = [sys.executable, "-P", "-m", "enginery_mock.server", "--port", "{port}", *deaf]
    behind = {
        "engine": "openai",
        "binary": "/bin/sh",
        "args": ["-c", '"$@" & wait', "sh", *engine],
    }
    async with managing(machine, {"behind": behind, "other": mock()}) as manager:
        await ask(manager, session, "behind")
        (shell,) = [row.pid for row in manager.status()]
        family = [shell, *descendants(shell)]
        assert len(family) == 2
        async with asyncio.timeout(PATIENCE):
            await manager.unload("behind")
        assert not any(map(psutil.pid_exists, family))
        await ask(manager, session, "other")


async def test_the_next_engine_starts_only_when_the_memory_of_the_last_is_back(machine, session):
    models = {
        "late": mock(memory={"gpu0": 60}, memory_late_ms=300),
        "next": mock(memory={"gpu0": 60}),
    }
    async with managing(machine, models, {"gpu0": 100}) as manager:
        for model in ("late", "next", "late"):
            await ask(manager, session, model)
    assert [(name, in_use) for name, _, in_use in machine.launches] == [
        ("late/default", {}),
        ("next/default", {}),
        ("late/default", {}),
    ]


async def test_a_broken_model_that_is_polled_is_started_once_per_back_off(machine, session):
    models = {"broken": mock(load_exit_code=3), "healthy": mock()}
    async with managing(machine, models) as manager:
        polls = 0
        while len(starts := [at for name, at, _ in machine.launches if "broken" in name]) < 2:
            with pytest.raises(EngineStartFailed, match="exit status 3"):
                await ask(manager, session, "broken")
            polls += 1
            await asyncio.sleep(0.05)
            if polls % 4 == 0:
                await ask(manager, session, "healthy")
    assert starts[1] - starts[0] >= 1.0


async def test_two_hundred_at_once_are_all_answered(machine, session):
    model = {**mock(max_queue=1000), "parallel": 2}
    async with managing(machine, {"m": model}) as manager:
        answers = await asyncio.gather(*(ask(manager, session, "m") for _ in range(200)))
        assert len(answers) == 200
        assert len(machine.launches) == 1
