"""Engines that stall, refuse late or are taken away: deadlines, error frames, and a token as proof of life."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

from enginery import EngineBusy, EngineRequest
from support.gateways import in_flight, serving
from support.raw_engine import RawEngine, head, stream_head

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def asks(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **more}


def sdk(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0)


def frame(text: str) -> bytes:
    chunk = f'{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}'
    data = f"data: {chunk}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def row(gateway: Any) -> Any:
    (found,) = gateway.manager.status()
    return found


# -- suspicion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_an_engine_that_is_well_and_gives_no_token_is_restarted(fast, eventually):
    stuck = {"lie_on_health": "stuck", "stuck_after_requests": 1}
    models = {"mock": {"parallel": 2, "options": stuck}}
    async with serving(models, fast=fast, first_byte=2.0) as gateway, sdk(gateway) as client:
        assert (await client.chat.completions.create(**asks("mock"))).model == "mock"
        first = row(gateway).pid
        with pytest.raises(openai.APIStatusError, match="did not send a first byte") as raised:
            await client.chat.completions.create(**asks("mock"))
        assert raised.value.status_code == 504
        assert raised.value.code == "engine_timeout"
        assert raised.value.response.headers["x-should-retry"] == "false"
        # whoever comes next waits for the token that does not come, and for the new process
        assert (await client.chat.completions.create(**asks("mock"))).model == "mock"
        after = row(gateway)
        assert (after.restarts, after.state) == (1, "ready")
        assert after.pid != first


MODELS: dict[str, dict[str, Any]] = {
    "mock": {"parallel": 2},
    "tiny-chat": {"engine": "llama.cpp", "context_length": 512},
    "tiny-embed": {"engine": "llama.cpp", "context_length": 128},
}


@pytest.mark.parametrize("name", MODELS)
async def test_a_suspect_that_gives_its_token_goes_on_as_it_was(name, tiny_models):
    settings = MODELS[name]
    if "engine" in settings:
        options = {"model": str(tiny_models / f"{name}.gguf"), "threads": 1}
        settings = {**settings, "options": {**options, "embedding": name == "tiny-embed"}}
    async with serving({"m": settings}) as gateway:
        manager = gateway.manager
        await manager.load("m")
        pid = row(gateway).pid
        lease = await manager.acquire(EngineRequest("/v1/embeddings", {"input": "x"}, False), "m")
        manager.suspect(lease)
        lease.release("timeout")
        assert row(gateway).reason.startswith("suspect")
        with pytest.raises(EngineBusy, match="fell silent"):
            manager._dispatcher.lease_now(lease.variant)
        await manager.load("m")  # waits for the token
        assert (row(gateway).pid, row(gateway).restarts, row(gateway).reason) == (pid, 0, "")


async def test_an_attached_server_without_tokens_is_out_of_reach_until_one_comes(eventually):
    silent = asyncio.Event()
    silent.set()

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        if silent.is_set():
            await asyncio.sleep(3600)
        writer.write(head("200 OK", "Content-Length: 2") + b"{}")

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, first_byte=2.0) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.APIStatusError, match="first byte"):
            await client.chat.completions.create(**asks("raw"))
        with pytest.raises(openai.APIStatusError, match="did not generate one token") as raised:
            await client.chat.completions.create(**asks("raw"))
        assert raised.value.code == "engine_unreachable"
        assert row(gateway).state == "unreachable"
        silent.clear()
        await client.chat.completions.create(**asks("raw"))
        assert row(gateway).state == "ready"
        assert engine.posts[-2]["max_tokens"] == 1


async def test_an_engine_that_still_sends_to_others_is_busy_and_not_suspect(eventually):
    over = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        if not asked.get("stream"):
            await asyncio.sleep(3600)
        writer.write(stream_head())
        while not over.is_set():
            writer.write(frame("x"))
            await writer.drain()
            await asyncio.sleep(0.05)
        raise EOFError

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, first_byte=2.0) as gateway,
        sdk(gateway) as client,
    ):
        stream = await client.chat.completions.create(**asks("raw", stream=True))
        await anext(aiter(stream))
        with pytest.raises(openai.APIStatusError, match="first byte"):
            await client.chat.completions.create(**asks("raw"))
        assert (row(gateway).state, row(gateway).reason) == ("ready", "")
        over.set()
        with pytest.raises(openai.APIError):
            _ = [event async for event in stream]


# -- streams that stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("comments", [False, True])
async def test_a_stream_that_falls_silent_ends_with_an_error(comments):
    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        writer.write(stream_head() + frame("Hi"))
        for _ in range(600):
            if comments:  # a sign of the server's life, not of the model's
                writer.write(b"8\r\n: ping\n\n\r\n")
                await writer.drain()
            await asyncio.sleep(0.1)

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, stall=0.3) as gateway,
        sdk(gateway) as client,
    ):
        stream = await client.chat.completions.create(**asks("raw", stream=True))
        with pytest.raises(openai.APIError, match=r"did not send anything more in 0\.3 s"):
            _ = [event async for event in stream]
        assert in_flight(gateway) == 0


async def test_a_stream_whose_engine_is_taken_away_ends_with_an_error(eventually):
    models = {"mock": {"options": {"itl_ms": 60_000}}}
    async with serving(models) as gateway, sdk(gateway) as client:
        stream = await client.chat.completions.create(**asks("mock", stream=True))
        await anext(aiter(stream))
        await gateway.manager.unload("mock", drain=False)
        with pytest.raises(openai.APIError, match="was unloaded") as raised:
            _ = [event async for event in stream]
        assert raised.value.code == "engine_evicted"


# -- an engine's own refusals -------------------------------------------------------------------------

REFUSALS = {
    400: (
        openai.BadRequestError,
        b'{"error":{"message":"no such knob","param":"knob","code":"k"}}',
    ),
    404: (openai.NotFoundError, b'{"detail":"nothing here"}'),
    422: (openai.UnprocessableEntityError, b'{"detail":[{"loc":["body"],"msg":"bad"}]}'),
    429: (openai.RateLimitError, b'{"message":"slow down"}'),
    500: (openai.InternalServerError, b"Internal Server Error"),
    503: (openai.InternalServerError, b""),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_an_engines_refusal_keeps_its_status_in_our_shape(fast):
    status, body = 200, b"{}"

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        writer.write(head(f"{status} X", f"Content-Length: {len(body)}", "Retry-After: 7") + body)

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, fast=fast) as gateway,
        sdk(gateway) as client,
    ):
        await client.chat.completions.create(**asks("raw"))
        for status, (kind, body) in REFUSALS.items():  # noqa: B007  # the server reads them
            for stream in (False, True):
                with pytest.raises(kind) as raised:
                    await client.chat.completions.create(**asks("raw", stream=stream))
                error = raised.value.body
                assert error["source"] == "engine"
                assert {"message", "type", "param", "code"} <= set(error)
                assert error["message"]
                headers = raised.value.response.headers
                assert headers["x-request-id"]
                assert headers["retry-after"] == "7"
                assert headers["x-should-retry"] == "false"
        assert in_flight(gateway) == 0


async def test_a_refusal_that_only_its_connection_ends_keeps_its_status():
    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        writer.write(head("500 Oh", "Connection: close", kind="text/plain") + b"no JSON at all")
        await writer.drain()
        raise EOFError

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="no JSON at all") as raised:
            await client.chat.completions.create(**asks("raw"))
        assert raised.value.status_code == 500


async def test_a_refusal_behind_a_head_of_ours_is_an_error_frame():
    """The head went out with the first comment, while the model was still loading."""

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        body = b'{"error":{"message":"too hot","type":"heat","code":"hot"}}'
        writer.write(head("418 Teapot", f"Content-Length: {len(body)}") + body)

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        speaks = {"x-enginery-progress": "1"}
        async with session.post(CHAT, json=asks("raw", stream=True), headers=speaks) as reply:
            assert reply.status == 200
            said = await reply.text()
        assert said.startswith(": enginery {")
        assert "event: error\n" in said
        assert '"too hot"' in said
        assert said.endswith("data: [DONE]\n\n")


async def test_a_whole_reply_behind_a_head_of_ours_is_an_error_frame_too():
    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        writer.write(head("200 OK", "Content-Length: 2") + b"{}")

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        speaks = {"x-enginery-progress": "1"}
        async with session.post(CHAT, json=asks("raw", stream=True), headers=speaks) as reply:
            said = await reply.text()
        assert '"code":"bad_engine_reply"' in said
