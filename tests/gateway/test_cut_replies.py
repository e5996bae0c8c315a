"""Replies that break off at any byte: no client takes a part for the whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from enginery.gateway.fast import FastPath
from support.gateways import in_flight, serving
from support.raw_engine import RawEngine, head, stream_head

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HELLO}),
    "completions": ("/v1/completions", {"prompt": "Hello"}),
    "responses": ("/v1/responses", {"input": "Hello"}),
    "messages": ("/v1/messages", {"messages": HELLO, "max_tokens": 3}),
}
LIMITED = {"responses": {"max_output_tokens": 3}}
WHOLE = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "raw",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hi!"},
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
FRAMINGS = {
    "length": (head("200 OK", f"Content-Length: {len(WHOLE)}"), WHOLE),
    "chunks": (
        head("200 OK", "Transfer-Encoding: chunked"),
        b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (50, WHOLE[:50], len(WHOLE) - 50, WHOLE[50:]),
    ),
    "closing": (head("200 OK", "Connection: close"), WHOLE),
}


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def fast(request) -> bool:
    return bool(request.param)


@pytest.fixture
def begun_fast(monkeypatch) -> list[bool]:
    """For each request that the short way saw: whether it took it. Nothing else is changed."""
    seen: list[bool] = []
    begin = FastPath.begin

    def counted(*args: Any) -> int:
        size = begin(*args)  # negative, where more has to come
        seen.append(size > 0)
        return size

    monkeypatch.setattr(FastPath, "begin", counted)
    return seen


@asynccontextmanager
async def clients(base_url: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, Any]]:
    async with (
        openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="x", max_retries=0) as client,
        anthropic.AsyncAnthropic(base_url=base_url, api_key="x", max_retries=0) as claude,
    ):
        yield client, claude


def sample(size: int, *, every: bool, about: int) -> list[int]:
    """All positions, or some ``about`` of them with both ends."""
    step = 1 if every else max(1, size // about)
    return sorted({*range(0, size, step), size - 1})


async def whole_reply(writer: asyncio.StreamWriter) -> None:
    writer.write(FRAMINGS["length"][0] + WHOLE)
    await writer.drain()


async def check_cuts_of_one_reply(
    framing: str, fast: bool, begun_fast: list[bool], every: bool
) -> None:
    reply = b"".join(FRAMINGS[framing])
    path, body = BODIES["chat"][0], {"model": "raw", **BODIES["chat"][1]}
    cut: int | None = None

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        if cut is None:
            await whole_reply(writer)
            return
        writer.write(reply[:cut])
        await writer.drain()
        raise EOFError

    async with (
        RawEngine(answer) as engine,
        serving({"raw": engine.model()}, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for position in sample(len(reply), every=every, about=40):
            cut = None  # leaves a connection that is kept, so that the short way can be taken
            async with client.post(path, json=body) as good:
                assert (good.status, await good.json()) == (200, json.loads(WHOLE))
            cut = position
            async with client.post(path, json=body) as got:
                error = (await got.json())["error"]
                assert got.status == 502, (position, error)
                assert error["code"] in {"engine_crashed", "bad_engine_reply", "engine_unreachable"}
                assert error["source"] == "gateway"
                assert got.headers["x-should-retry"] == "false"
                assert got.headers["x-request-id"]
        assert in_flight(gateway) == 0
    assert any(begun_fast) == fast


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_reply_that_breaks_off_is_a_502(framing, fast, begun_fast):
    await check_cuts_of_one_reply(framing, fast, begun_fast, every=False)


@pytest.mark.heavy
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_reply_that_breaks_off_at_any_byte_is_a_502(framing, fast, begun_fast):
    await check_cuts_of_one_reply(framing, fast, begun_fast, every=True)


# -- streams -------------------------------------------------------------------------------------------


@pytest.fixture
async def transcripts(mock_engine) -> dict[str, bytes]:
    """What a mock streams in each API, as it stands in chunks."""
    found = {}
    async with aiohttp.ClientSession(mock_engine.url) as session:
        for api, (path, body) in BODIES.items():
            asked = {"model": "m", "stream": True, "max_tokens": 3, **body, **LIMITED.get(api, {})}
            async with session.post(path, json=asked) as reply:
                assert reply.status == 200
                found[api] = await reply.read()
    return found


def chunked(raw: bytes, size: int | None) -> bytes:
    """In chunks of ``size`` bytes; None: one for each event, as engines send them."""
    if size is None:
        pieces = [piece + b"\n\n" for piece in raw.split(b"\n\n") if piece]
    else:
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def listen(api: str, client: openai.AsyncOpenAI, claude: Any) -> int:
    """A stream to its end with the official client of that API; the number of its events."""
    ask: Any = {"model": "raw", "stream": True, **BODIES[api][1]}
    match api:
        case "chat":
            stream: Any = await client.chat.completions.create(**ask)
        case "completions":
            stream = await client.completions.create(**ask)
        case "responses":
            stream = await client.responses.create(**ask)
        case _:
            stream = await claude.messages.create(**ask)
    return len([event async for event in stream])


RAISED = (openai.APIError, anthropic.APIError, json.JSONDecodeError)
"""The last where an event was open: clients read that first."""


async def check_cuts_of_one_stream(
    api: str, raw: bytes, size: int | None, *, fast: bool, every: bool, begun_fast: list[bool]
) -> None:
    stream = stream_head() + chunked(raw, size)
    cut = len(stream)

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        if not asked.get("stream"):
            await whole_reply(writer)
            return
        writer.write(stream[:cut])
        await writer.drain()
        if cut < len(stream):
            raise EOFError

    path, body = BODIES["chat"]
    async with (
        RawEngine(answer) as engine,
        serving({"raw": {"engine": "mock", "url": engine.url}}, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as plain,
        clients(gateway.base_url) as (client, claude),
    ):
        assert await listen(api, client, claude) > 3  # whole, it passes
        said = len(stream) - len(b"0\r\n\r\n")  # from here on all of it was said
        for position in sample(said, every=every, about=40):
            cut = position
            async with plain.post(path, json={"model": "raw", **body}) as good:
                await good.read()  # leaves a connection that is kept
            passed = f"{api} cut at byte {position} of {len(stream)} passed for whole"
            try:
                await listen(api, client, claude)
            except RAISED:
                continue
            pytest.fail(passed)
        assert in_flight(gateway) == 0
    assert any(begun_fast) == fast  # not all of them: on a slow machine a kept connection grows old


APIS = list(BODIES)


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_breaks_off_raises_in_its_client(api, transcripts, fast, begun_fast):
    await check_cuts_of_one_stream(
        api, transcripts[api], None, fast=fast, every=False, begun_fast=begun_fast
    )


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_breaks_off_inside_an_event_raises_too(api, transcripts, begun_fast):
    await check_cuts_of_one_stream(
        api, transcripts[api], 50, fast=True, every=False, begun_fast=begun_fast
    )


@pytest.mark.heavy
@pytest.mark.parametrize("size", [None, 7, 100])
@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_breaks_off_at_any_byte_raises_in_its_client(
    api, size, transcripts, fast, begun_fast
):
    await check_cuts_of_one_stream(
        api, transcripts[api], size, fast=fast, every=True, begun_fast=begun_fast
    )
