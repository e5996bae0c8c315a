"""Clients that leave, at any point: leases and slots come back, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from enginery.gateway import Gateway
from support.gateways import in_flight, serving

pytestmark = pytest.mark.both_loops

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}]},
}
AT_ONCE = 10


async def leave_somewhere(
    gateway: Gateway, chance: random.Random, there: list[None], together: asyncio.Event
) -> None:
    """A request, of which the client hears a little, or nothing, before it goes without a word."""
    path, body = chance.choice(list(PATHS.items()))
    asked = {"model": "m", "stream": chance.random() < 0.7, "max_tokens": 800, **body}
    data = json.dumps({**asked, "ignore_eos": True}).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data
    reader, writer = await asyncio.open_connection(*gateway.address)
    part = chance.choice([len(request), len(request), len(request), chance.randrange(len(request))])
    writer.write(request[:part])
    await writer.drain()
    patience, least = chance.uniform(0.0, 0.15), chance.choice([0, 1, 300, 2000])
    try:
        async with asyncio.timeout(patience):
            await reader.readexactly(least)
    except (TimeoutError, asyncio.IncompleteReadError):
        pass
    there.append(None)
    await together.wait()
    writer.transport.abort()


async def measure(is_so: Callable[[], Any], deadline: float = 20.0) -> float:
    """Seconds until it is so; fails at the deadline."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < deadline, "not in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


async def leave_together(gateway: Gateway, chance: random.Random) -> int:
    """Some clients that go at the same moment; how many had an engine at work then."""
    together, there = asyncio.Event(), list[None]()
    leaving = [
        asyncio.create_task(leave_somewhere(gateway, chance, there, together))
        for _ in range(AT_ONCE)
    ]
    await measure(lambda: len(there) == AT_ONCE)
    open_ones = in_flight(gateway)
    together.set()
    await asyncio.gather(*leaving)
    return open_ones


async def check_departures(
    model: dict[str, Any], count: int, seed: int, record: Callable[[str, Any], None]
) -> None:
    chance = random.Random(seed)
    async with serving({"m": model}) as gateway, aiohttp.ClientSession(gateway.base_url) as good:
        slowest = slots = 0.0
        open_ones = 0
        async with good.post(
            "/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 1}
        ) as r:
            assert r.status == 200
        for _ in range(count // AT_ONCE):
            open_ones += await leave_together(gateway, chance)
            slowest = max(slowest, await measure(lambda: in_flight(gateway) == 0))
            began = time.monotonic()
            while await is_busy(gateway):
                assert time.monotonic() - began < 20, "the engine goes on"
                await asyncio.sleep(0.005)
            slots = max(slots, time.monotonic() - began)
        assert open_ones > count // 10  # somebody left in the middle
        record("leases_back_s", round(slowest, 3))
        record("slots_back_s", round(slots, 3))
        print(f"leases back after {slowest * 1000:.0f} ms at most, slots {slots * 1000:.0f} ms")
        async with good.post(
            "/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 1}
        ) as r:
            assert r.status == 200
        assert len(gateway._watch.relays) == 0
        assert [row.restarts for row in gateway.manager.status()] == [0]


async def is_busy(gateway: Gateway) -> bool:
    """By the engine's own account."""
    (view,) = gateway.manager._dispatcher.scheduler.instances()
    engine = gateway.manager._running(view.variant)
    assert engine is not None
    if view.variant.engine_type == "mock":
        report = (await engine.get("/mock/requests")).json()
        return bool(report["running"] or report["queued"])
    slots = (await engine.get("/slots")).json()
    return any(slot["is_processing"] for slot in slots)


MOCK = {"parallel": 4, "options": {"ttft_ms": 5, "itl_ms": 2}}


def llama(tiny_models: Any) -> dict[str, Any]:
    return {
        "engine": "llama.cpp",
        "context_length": 1024,
        "parallel": 4,
        "options": {"model": str(tiny_models / "tiny-chat.gguf"), "threads": 1},
    }


async def test_leases_and_a_mocks_slots_come_back_from_who_left(record_property):
    await check_departures(MOCK, 100, 1, record_property)


async def test_leases_and_slots_of_llama_cpp_come_back_from_who_left(tiny_models, record_property):
    await check_departures(llama(tiny_models), 40, 2, record_property)


@pytest.mark.heavy
async def test_leases_and_a_mocks_slots_come_back_from_a_thousand(record_property):
    await check_departures(MOCK, 1000, 3, record_property)


@pytest.mark.heavy
async def test_leases_and_slots_of_llama_cpp_come_back_from_a_thousand(
    tiny_models, record_property
):
    await check_departures(llama(tiny_models), 1000, 4, record_property)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_model_that_is_to_be_heard_out_finishes_without_its_client(
    fast, stream, eventually
):
    model = {"parallel": 2, "on_disconnect": "drain", "options": {"itl_ms": 20}}
    body = {"model": "m", "prompt": "Hello", "max_tokens": 30, "ignore_eos": True}
    async with (
        serving({"m": model}, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        async with session.post("/v1/completions", json={**body, "max_tokens": 1}) as reply:
            assert reply.status == 200
        async with aiohttp.ClientSession(gateway.base_url) as leaver:
            asked = asyncio.create_task(
                leaver.post("/v1/completions", json={**body, "stream": stream})
            )
            await eventually(lambda: gateway._watch.relays, 20)
            asked.cancel()
            for reply in await asyncio.gather(asked, return_exceptions=True):
                if isinstance(reply, aiohttp.ClientResponse):
                    reply.close()
        await eventually(lambda: in_flight(gateway) == 0, 20)
        (view,) = gateway.manager._dispatcher.scheduler.instances()
        engine = gateway.manager._running(view.variant)
        assert engine is not None
        report = (await engine.get("/mock/requests")).json()
        assert (report["finished"], report["cancelled"]) == (2, 0)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_two_hundred_at_once_on_two_slots_are_all_answered(fast):
    async with (
        serving({"m": {"parallel": 2}}, fast=fast) as gateway,
        openai.AsyncOpenAI(  # its own patience with a connection is 5 s
            base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0, timeout=50
        ) as client,
    ):

        async def one(number: int) -> str:
            ask: Any = {"model": "m", "prompt": f"Number {number}", "max_tokens": 3}
            if number % 2:
                return (await client.completions.create(**ask)).choices[0].text
            chunks = [c async for c in await client.completions.create(**ask, stream=True)]
            assert chunks[-1].choices[0].finish_reason
            return "".join(c.choices[0].text for c in chunks)

        said = await asyncio.gather(*map(one, range(200)))
        assert all(said)
        assert in_flight(gateway) == 0
