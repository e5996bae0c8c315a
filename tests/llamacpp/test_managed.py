"""Real llama.cpp under the real manager: loaded, asked, streamed, swapped, stopped, killed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from enginery import (
    ContextLengthExceeded,
    EngineCrashed,
    EngineEvicted,
    EngineManager,
    EngineStartFailed,
    EngineUnreachable,
    Settings,
)
from enginery.api.sse import SSEDecoder
from enginery.engine.transport import open_session
from enginery.values import EngineRequest

CHAT = {
    "messages": [{"role": "user", "content": "List objects are"}],
    "max_tokens": 12,
    "temperature": 0,
}
ENDLESS = {**CHAT, "max_tokens": 30_000, "ignore_eos": True, "stream": True}


@pytest.fixture
async def manager():
    settings = Settings(defaults={"min_residency": 0, "drain_timeout": 5, "shutdown_timeout": 0.1})
    async with EngineManager(settings) as manager:
        yield manager


@pytest.fixture
async def session():
    async with open_session() as session:
        yield session


@pytest.fixture
def tiny(models) -> dict[str, Any]:
    return {"model": str(models / "tiny-chat.gguf"), "threads": 1, "context_length": 32_768}


@pytest.fixture
def small(models) -> dict[str, Any]:
    return {"model": str(models / "tiny-chat.gguf"), "threads": 1, "context_length": 512}


def demo(manager: EngineManager, engine_type: str) -> Any:
    return manager.registry.hooks(engine_type).demo_variant()


async def ask(client, session, body=CHAT) -> dict[str, Any]:
    async with await client.forward_request(session, "", body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def stream(client, session, body=CHAT) -> list[dict[str, Any]]:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    decoder, events = SSEDecoder(), []
    async with await client.forward_request(session, "", body) as response:
        assert response.status == 200
        async for data in response.content.iter_any():
            events += decoder.feed(data)
    assert events[-1].data == "[DONE]"
    return [json.loads(event.data) for event in events[:-1]]


def in_flight(manager: EngineManager) -> int:
    return sum(row.in_flight for row in manager.status())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def until(predicate, seconds: float = 30.0) -> None:
    """Poll; fails when it is not so in time."""
    async with asyncio.timeout(seconds):
        while not predicate():
            await asyncio.sleep(0.01)


async def test_the_shipped_model_answers_with_real_words(manager, session):
    client = await manager.ensure_engine("pydoc", demo(manager, "llama.cpp"), "llama.cpp")
    reply = await ask(client, session)
    assert reply["model"] == "pydoc"
    assert "Lists are mutable" in reply["choices"][0]["message"]["content"]
    assert in_flight(manager) == 0


async def test_the_same_code_talks_to_llama_cpp_and_to_the_mock_and_back(manager, session):
    for engine_type in ("llama.cpp", "mock", "llama.cpp"):
        client = await manager.ensure_engine(
            f"m-{engine_type}", demo(manager, engine_type), engine_type
        )
        whole = await ask(client, session)
        assert whole["object"] == "chat.completion"
        assert whole["choices"][0]["message"]["content"]
        usage = whole["usage"]
        assert await client.estimate_tokens(CHAT) == usage["prompt_tokens"] + CHAT["max_tokens"]
        chunks = await stream(client, session)
        text = "".join(
            choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]
        )
        assert text
        counted = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert counted[-1]["prompt_tokens"] == usage["prompt_tokens"]
        assert await client.check_health()
    assert [row.state for row in manager.status()] == ["ready", "stopped"]


async def test_bounds_hold_for_hostile_text_and_the_count_is_exact(manager, session, tiny):
    client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
    for text in ("", "a", "0123456789" * 20, "🧑‍🚀" * 40, "\x00\x07", "<|im_start|>" * 9, "שלום ﷺ"):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
        used = (await ask(client, session, body))["usage"]["prompt_tokens"]
        bounds = client.hooks.estimate_tokens(
            EngineRequest("/v1/chat/completions", body), client.variant
        )
        assert bounds.low <= used
        assert bounds.high is None or used <= bounds.high
        assert await client.estimate_tokens(body) == used + 1


async def test_overflow_comes_back_with_both_numbers(manager, session, small):
    client = await manager.ensure_engine("small", small, "llama.cpp")
    body = {"messages": [{"role": "user", "content": "0123456789 " * 300}], "max_tokens": 1}
    async with await client.forward_request(session, "", body) as response:
        assert response.status == 400
        error = client.hooks.parse_error(response.status, await response.read())
    assert isinstance(error, ContextLengthExceeded)
    assert error.context_length == 512
    assert error.prompt_tokens is not None
    assert error.prompt_tokens > 512


async def test_every_route_that_is_listed_can_be_asked(manager, session, tiny):
    client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
    said = [{"role": "user", "content": "hi"}]
    bodies = {
        "/v1/chat/completions": {"messages": said, "max_tokens": 2},
        "/v1/completions": {"prompt": "hi", "max_tokens": 2},
        "/v1/responses": {"input": "hi", "max_output_tokens": 2},
        "/v1/messages": {"messages": said, "max_tokens": 2},
        "/v1/messages/count_tokens": {"messages": said},
        "/v1/chat/completions/input_tokens": {"messages": said},
        "/v1/responses/input_tokens": {"input": "hi"},
        "/apply-template": {"messages": said},
        "/infill": {"input_prefix": "def f(", "input_suffix": ")", "n_predict": 2},
        "/tokenize": {"content": "hi"},
        "/detokenize": {"tokens": [1, 2]},
    }
    routes = client.get_supported_endpoints()
    assert set(routes) - {"/v1/models"} == set(bodies)
    for route, body in bodies.items():
        async with await client.forward_request(session, route, body) as response:
            assert response.status == 200, (route, await response.text())
            assert await response.json()
    assert in_flight(manager) == 0


async def test_a_missing_model_fails_with_the_engines_own_last_lines(manager):
    with pytest.raises(EngineStartFailed) as caught:
        await manager.ensure_engine("gone", {"model": "/nowhere/model.gguf"}, "llama.cpp")
    assert "exit status 1" in caught.value.message
    assert "failed to load model, '/nowhere/model.gguf'" in caught.value.message


async def test_a_bad_option_fails_with_the_engines_own_last_lines(manager, tiny):
    bad = {**tiny, "extra_args": ["--bogus"]}
    with pytest.raises(EngineStartFailed, match="invalid argument: --bogus"):
        await manager.ensure_engine("bad", bad, "llama.cpp")


async def test_stopping_with_a_request_in_flight_ends_within_the_stop_plan(
    manager, session, tiny, caplog
):
    caplog.set_level(logging.INFO, "enginery.engine")
    client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
    async with await client.forward_request(session, "", ENDLESS) as response:
        await response.content.readany()
        pid = manager.status()[0].pid
        await manager.unload("tiny", drain=False)
        assert not alive(pid)
    assert [word for word in caplog.messages if word.startswith("tiny/default ended: ")]
    assert "SIGKILL" not in caplog.text
    assert in_flight(manager) == 0


async def test_a_swap_waits_for_an_open_stream_and_then_evicts_it(session, tiny):
    settings = Settings(defaults={"min_residency": 0, "max_wait": 0, "drain_timeout": 0.2})
    async with EngineManager(settings) as manager:
        client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
        async with await client.forward_request(session, "", ENDLESS) as response:
            await response.content.readany()
            await manager.ensure_engine("m", demo(manager, "mock"), "mock")
            with pytest.raises(EngineEvicted, match="made room"):
                await response.content.read()


@pytest.mark.parametrize("streaming", [False, True], ids=["idle", "streaming"])
async def test_after_kill_9_of_the_engine_nothing_is_left_and_the_next_request_is_served(
    manager, session, tiny, streaming
):
    client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
    pid = manager.status()[0].pid
    if streaming:
        async with await client.forward_request(session, "", ENDLESS) as response:
            await response.content.readany()
            os.kill(pid, signal.SIGKILL)
            # the connection breaks first; the manager's own error comes a moment later
            with pytest.raises((EngineCrashed, aiohttp.ClientPayloadError)):
                await response.content.read()
    else:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: manager.status()[0].state == "failed")
    assert not alive(pid)
    assert in_flight(manager) == 0
    with pytest.raises((EngineCrashed, EngineUnreachable), match="SIGKILL"):
        await client.forward_request(session, "", CHAT)
    again = await manager.ensure_engine("tiny")
    assert (await ask(again, session))["usage"]["completion_tokens"] == 12


MANAGER = """
import asyncio, json, sys
from enginery import EngineManager
from enginery.engine.transport import open_session

async def main(config, body):
    async with EngineManager() as manager, open_session() as session:
        client = await manager.ensure_engine("tiny", config, "llama.cpp")
        response = await client.forward_request(session, "", body) if body else None
        if response is not None:
            await response.content.readany()
        row = manager.status()[0]
        print(json.dumps({"pid": row.pid, "address": row.address, "in_flight": row.in_flight}))
        sys.stdout.flush()
        await asyncio.Event().wait()

asyncio.run(main(*json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("streaming", [False, True], ids=["idle", "streaming"])
async def test_after_kill_9_of_the_manager_nothing_is_left_and_another_one_serves(
    manager, session, tiny, streaming
):
    arguments = json.dumps([tiny, ENDLESS if streaming else None])
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MANAGER, arguments, stdout=asyncio.subprocess.PIPE
    )
    row = json.loads(await victim.stdout.readline())
    assert row["in_flight"] == (1 if streaming else 0)
    assert alive(row["pid"])
    guardian = parent_of(row["pid"])
    victim.kill()
    await victim.wait()
    await until(lambda: not alive(row["pid"]) and not alive(guardian))
    client = await manager.ensure_engine("tiny", tiny, "llama.cpp")
    assert (await ask(client, session))["usage"]["completion_tokens"] == 12
