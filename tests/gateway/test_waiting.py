"""Requests that wait: comments while models load and swap, a bounded queue, and clean ends at shutdown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest

from support.gateways import in_flight, serving
from support.raw_engine import RawEngine, stream_head

CONNECTIONS = pytest.mark.both_loops
"""Where clients or the gateway leave: each loop closes connections in its own way. A wait is the same on both."""

CHAT = "/v1/chat/completions"
KEEP_ALIVE = ": keep-alive\n\n"
LONG = 60_000


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


def sdk(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0)


async def listen(client: openai.AsyncOpenAI, **body: Any) -> list[Any]:
    return [event async for event in await client.chat.completions.create(**body, stream=True)]


def chunk(choice: dict[str, Any] | None) -> bytes:
    """One event of a stream; None: the one that says that it is complete."""
    said = "[DONE]" if choice is None else json.dumps({"choices": [{"index": 0, **choice}]})
    data = f"data: {said}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def queued(gateway: Any) -> int:
    return sum(row.queued for row in gateway.manager.status())


# -- while it loads ----------------------------------------------------------------------------------


async def test_a_stream_hears_comments_while_its_model_loads_and_clients_skip_them():
    models = {"mock": {"options": {"load_ms": 700}}}
    async with (
        serving(models, heartbeat=0.05) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
        sdk(gateway) as client,
    ):
        official = asyncio.create_task(listen(client, **chat("mock")))
        async with session.post(CHAT, json=chat("mock", stream=True)) as reply:
            assert reply.status == 200
            said = await reply.text()
        assert said.startswith(3 * KEEP_ALIVE)
        assert said.endswith("data: [DONE]\n\n")
        assert "error" not in said
        assert (await official)[-1].choices[0].finish_reason == "stop"


async def test_a_model_that_fails_to_load_behind_comments_is_an_error_that_clients_raise():
    models = {"mock": {"options": {"load_ms": 1000, "load_exit_code": 3}}}
    async with serving(models, heartbeat=0.05) as gateway, sdk(gateway) as client:
        with pytest.raises(openai.APIError, match="exit status 3") as raised:
            await listen(client, **chat("mock"))
        assert not isinstance(raised.value, openai.APIStatusError)
        assert raised.value.code == "engine_start_failed"


async def test_who_asks_for_progress_hears_phases():
    models = {"mock": {"options": {"load_ms": 700}}}
    async with (
        serving(models) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
        session.post(
            CHAT, json=chat("mock", stream=True), headers={"x-enginery-progress": "1"}
        ) as reply,
    ):
        said = await reply.text()
    assert ': enginery {"phase": "loading"' in said
    assert said.endswith("data: [DONE]\n\n")


# -- while another one runs -----------------------------------------------------------------------------


async def test_a_stream_waits_for_a_swap_and_the_open_one_finishes(eventually):
    models = {"first": {"options": {"itl_ms": 40}}, "second": {}}
    async with serving(models, heartbeat=0.05) as gateway, sdk(gateway) as client:
        await client.chat.completions.create(**chat("first", max_tokens=1))
        first = asyncio.create_task(
            listen(client, **chat("first", max_tokens=20), extra_body={"ignore_eos": True})
        )
        await eventually(lambda: in_flight(gateway) == 1, 20)
        second = await listen(client, **chat("second"))
        assert second[-1].choices[0].finish_reason == "stop"
        assert (await first)[-1].choices[0].finish_reason == "length"


@CONNECTIONS
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_nothing_is_loaded_for_a_client_that_left_the_queue(stream, eventually):
    models = {"first": {"options": {"itl_ms": LONG}}, "second": {}}
    async with (
        serving(models, heartbeat=0.05) as gateway,
        sdk(gateway) as client,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        open_stream = await client.chat.completions.create(**chat("first", stream=True))
        asked = asyncio.create_task(session.post(CHAT, json=chat("second", stream=stream)))
        waits = gateway.manager._dispatcher.scheduler._queue
        await eventually(lambda: len(waits) == 1, 20)
        if stream:
            (await asked).close()
        else:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        await eventually(lambda: len(waits) == 0, 20)
        await open_stream.close()
        await eventually(lambda: in_flight(gateway) == 0, 20)
        await client.chat.completions.create(**chat("first", max_tokens=1))
        assert [row.model for row in gateway.manager.status()] == ["first"]


# -- at the end ----------------------------------------------------------------------------------------


@CONNECTIONS
async def test_shutdown_ends_everything_that_waits_or_runs_and_says_why(eventually):
    models = {
        "runs": {"parallel": 4, "options": {"itl_ms": LONG, "memory": 1}},
        "loads": {"options": {"load_ms": LONG, "memory": 1}},
    }
    async with (
        serving(models, heartbeat=0.05, together=True, shutdown_timeout=0.2) as gateway,
        sdk(gateway) as client,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        running = await client.chat.completions.create(**chat("runs", stream=True))
        await anext(aiter(running))
        whole = asyncio.create_task(client.chat.completions.create(**chat("runs")))
        held = asyncio.create_task(client.chat.completions.create(**chat("loads")))
        commented = await session.post(CHAT, json=chat("loads", stream=True))
        assert await commented.content.readline() == b": keep-alive\n"
        await eventually(lambda: in_flight(gateway) == 2 and queued(gateway) == 2, 20)
        async with asyncio.timeout(30):
            await gateway.stop()
        with pytest.raises(openai.InternalServerError) as raised:
            await held
        assert (raised.value.status_code, raised.value.code) == (503, "shutting_down")
        with pytest.raises(openai.InternalServerError) as raised:
            await whole
        assert (raised.value.status_code, raised.value.code) == (503, "engine_evicted")
        with pytest.raises(openai.APIError, match="shutdown"):
            _ = [event async for event in running]
        said = await commented.text()
        assert '"code":"shutting_down"' in said
        assert said.endswith("data: [DONE]\n\n")
        assert in_flight(gateway) == 0


@CONNECTIONS
async def test_shutdown_lets_an_open_stream_finish_and_takes_no_new_ones(eventually):
    over = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        writer.write(stream_head() + chunk({"delta": {"content": "Hi"}}))
        await over.wait()
        writer.write(chunk({"delta": {}, "finish_reason": "length"}) + chunk(None) + b"0\r\n\r\n")

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, shutdown_timeout=30) as gateway,
        sdk(gateway) as client,
        aiohttp.ClientSession(gateway.base_url) as kept,
    ):
        async with kept.get("/readyz") as ready:
            assert ready.status == 200  # leaves a connection
        stream = asyncio.create_task(listen(client, **chat("raw")))
        await eventually(lambda: in_flight(gateway) == 1, 20)
        stop = asyncio.create_task(gateway.stop())
        await eventually(lambda: gateway._models.draining, 20)
        async with kept.get("/readyz") as ready:
            assert ready.status == 503
        async with kept.post(CHAT, json=chat("raw")) as refused:
            assert refused.status == 503
            assert (await refused.json())["error"]["code"] == "shutting_down"
        over.set()
        assert (await stream)[-1].choices[0].finish_reason == "length"
        async with asyncio.timeout(30):
            await stop


@CONNECTIONS
async def test_a_client_that_waits_on_a_silent_connection_does_not_hold_up_the_end():
    async with (
        RawEngine() as engine,
        serving({"raw": engine.model()}) as gateway,
    ):
        host, port = gateway.address
        _, writer = await asyncio.open_connection(host, port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        )
        await writer.drain()
        async with asyncio.timeout(30):
            await gateway.stop()
        writer.close()
