"""The life of a real vLLM: clients that leave, processes that are killed, stops; and that nothing is left.

vLLM is four processes and shares memory between them: the API server, its engine core, that one's worker, and Python's
resource tracker. Killed, the server leaves its engine core behind (vllm-project/vllm#55510); under guardians it does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from enginery import EngineHooks, Variant
from enginery.engine.preflight import ask_program, startable
from enginery_vllm import VllmPlugin
from support.gateways import GatewayThread, in_flight
from support.real_vllm import START, ask_engine, row_of, vllm_model

HELLO: list[Any] = [{"role": "user", "content": "List objects are"}]
LIMIT, ENDLESS = 32_768, 30_000
"""Tokens: more than half a minute."""


@pytest.fixture(scope="module")
def house(tiny_llama, family):
    models = {"tiny": vllm_model(tiny_llama, family, context_length=LIMIT)}
    with GatewayThread(models, load_stall=START) as house:
        yield house
    assert family.processes() == []


@pytest.fixture
def client(house):
    with openai.OpenAI(
        base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START
    ) as client:
        yield client


def ask(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8)


def stream(client: openai.OpenAI) -> Any:
    """A stream that has begun and goes on for long."""
    chunks = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=ENDLESS,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in range(20):
        next(chunks)
    return chunks


def running(house: GatewayThread) -> float:
    page = ask_engine(house, "tiny", "/metrics").body.decode()
    (number,) = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", page, re.MULTILINE)
    return float(number)


async def gone(eventually: Any, processes: list[psutil.Process], files: set[str]) -> None:
    """The processes, and the shared memory and sockets that they had."""
    await eventually(lambda: not any(process.is_running() for process in processes), 60)
    await eventually(lambda: not any(map(_exists, files)), 60)


def _exists(path: str) -> bool:
    return Path(path).exists()


async def test_a_client_that_leaves_frees_the_engine(house, client, eventually) -> None:
    chunks = stream(client)
    assert running(house) == 1
    chunks.close()
    await eventually(lambda: running(house) == 0, 25)  # it would have gone on for longer
    assert in_flight(house.gateway) == 0


def test_tools_for_a_model_without_a_parser_are_refused_by_vllm_itself(client) -> None:
    tool: Any = {"type": "function", "function": {"name": "flip", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="tool-call-parser"):
        client.chat.completions.create(model="tiny", messages=HELLO, tools=[tool])


async def test_a_kill_of_the_inner_engine_core_ends_everything_and_the_next_request_is_served(
    house, client, family, eventually
) -> None:
    ask(client)
    restarts = row_of(house, "tiny")["restarts"]
    before, shared = family.processes(), family.shared_memory()
    chunks = stream(client)
    assert len(before) >= 3
    assert shared
    family.one("EngineCore").kill()
    with pytest.raises(openai.APIError, match="EngineCore encountered an issue"):
        for _ in chunks:
            pass
    await eventually(lambda: row_of(house, "tiny")["state"] == "failed", 60)
    await gone(eventually, before, shared)
    assert in_flight(house.gateway) == 0
    assert ask(client).usage.completion_tokens == 8
    assert row_of(house, "tiny")["restarts"] == restarts + 1
    assert not set(before) & set(family.processes())


async def test_a_kill_of_the_server_ends_everything_and_the_next_request_is_served(
    house, client, family, eventually
) -> None:
    ask(client)
    before, shared, sockets = family.processes(), family.shared_memory(), family.sockets()
    assert sockets
    chunks = stream(client)
    psutil.Process(row_of(house, "tiny")["pid"]).kill()
    with pytest.raises(openai.APIError, match="killed by SIGKILL") as caught:
        for _ in chunks:
            pass
    assert caught.value.code == "engine_crashed"
    await eventually(lambda: row_of(house, "tiny")["state"] == "failed", 60)
    await gone(eventually, before, shared | sockets)
    assert ask(client).usage.completion_tokens == 8
    assert not set(before) & set(family.processes())


async def test_a_stop_with_a_request_in_flight_keeps_to_its_plan_and_leaves_nothing(
    house, client, family, eventually
) -> None:
    ask(client)
    before, shared = family.processes(), family.shared_memory()
    chunks = stream(client)
    house.call(house.gateway.manager.unload("tiny", drain=False))  # raises if anything survives it
    assert row_of(house, "tiny")["state"] == "stopped"
    with pytest.raises(openai.APIError, match="unloaded"):
        for _ in chunks:
            pass
    await gone(eventually, before, shared)
    assert in_flight(house.gateway) == 0


def test_a_worker_that_cannot_start_is_told_with_its_own_reason(tiny_llama, family) -> None:
    too_much = {"kv_cache_gib": 100_000}
    models = {"big": vllm_model(tiny_llama, family, context_length=LIMIT, options=too_much)}
    with (
        GatewayThread(models, load_stall=START) as house,
        openai.OpenAI(base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START) as c,
        pytest.raises(openai.InternalServerError, match="less than requested memory") as caught,
    ):
        c.chat.completions.create(model="big", messages=HELLO)
    assert caught.value.code == "engine_start_failed"
    assert family.processes() == []


def test_this_python_says_which_vllm_it_has(tiny_llama) -> None:
    hooks = EngineHooks(VllmPlugin(), "vllm", "enginery-vllm")
    variant = Variant("tiny", engine_type="vllm", options={"model": str(tiny_llama)})
    said = ask_program(startable(hooks, variant))
    assert re.fullmatch(r"vLLM \d+\.\d+\S*, torch \d+\.\d+\S*", said)


def test_a_model_that_is_not_there_fails_with_vllms_own_last_lines(tmp_path, family) -> None:
    models = {"gone": vllm_model(tmp_path / "nowhere", family)}
    with (
        GatewayThread(models, load_stall=START) as house,
        openai.OpenAI(base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START) as c,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        c.chat.completions.create(model="gone", messages=HELLO)
    assert caught.value.code == "engine_start_failed"
    assert "nowhere" in caught.value.message
    assert family.processes() == []
