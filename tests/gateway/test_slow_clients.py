"""Clients that are too slow, hundreds of them: they are cut off, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
import pytest

from enginery import EngineManager, Settings
from enginery.gateway import Gateway
from enginery.gateway.limits import ConnectionLimits
from support.gateways import QUICK, in_flight
from support.raw_engine import RawEngine, stream_head

CHAT = "/v1/chat/completions"
MANY = 200
ASK = {"model": "raw", "messages": [{"role": "user", "content": "Hello"}]}
REPLY = b'{"object": "chat.completion", "choices": []}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(REPLY),
    REPLY,
)


@asynccontextmanager
async def serving(engine: RawEngine, fast: bool = True, **limits: Any):
    settings = Settings(
        defaults=QUICK,
        models={"raw": engine.model(parallel=1000)},
        server={"body_limit": 2**20},
    )
    async with (
        EngineManager(settings) as manager,
        Gateway(manager, port=0, fast=fast, limits=ConnectionLimits(**limits)) as gateway,
    ):
        for listening in gateway._site._server.sockets:
            # what is accepted there inherits it: else the kernel takes megabytes for each client that is slow
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        gateway._watch._every = 0.05  # what is too slow is seen soon
        yield gateway


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def fast(request) -> bool:
    return bool(request.param)


async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
    """A short reply; to those who ask for a stream, more than a socket of `serving` holds."""
    if not asked.get("stream"):
        writer.write(WHOLE)
        return
    writer.write(stream_head())
    piece = b"data: " + b"x" * 65_000 + b"\n\n"
    for _ in range(20):
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()


async def good(client: aiohttp.ClientSession, count: int) -> int:
    """How many of ``count`` requests are served, one after the other."""
    served = 0
    for _ in range(count):
        async with client.post(CHAT, json=ASK) as reply:
            served += await reply.read() == REPLY
    return served


async def connect(gateway: Gateway, stack: AsyncExitStack, small: bool = False):
    raw = socket.socket()
    if small:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, gateway.address)
    reader, writer = await asyncio.open_connection(sock=raw)
    stack.callback(lambda: writer.transport.abort())  # noqa: PLW0108  # a writer that is dropped closes
    return reader, writer


def request(body: bytes, length: int | None = None) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b"
        % (CHAT.encode(), len(body) if length is None else length, body)
    )


HALF_OPEN = {
    "not a byte": b"",
    "half a line": b"POST /v1/chat/comp",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n",
    "half a body": request(b'{"model": "raw", ', 500),
    "half a large body": request(b'{"model": "raw", ', 900_000),
    "half a get": b"GET /v1/models HTTP/1.1\r\nHost: local",
}


async def test_half_open_connections_are_closed_and_slow_nobody(fast: bool) -> None:
    kinds = list(HALF_OPEN)
    async with (
        RawEngine(answer) as engine,
        serving(engine, fast, header=2.0, body_grace=2.0, body_rate=1e6, linger=0.1) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
        AsyncExitStack() as stack,
    ):
        half = [await connect(gateway, stack) for _ in range(MANY)]
        for number, (_, writer) in enumerate(half):
            writer.write(HALF_OPEN[kinds[number % len(kinds)]])
        assert await good(client, 50) == 50
        ends: dict[str, set[bytes]] = {kind: set() for kind in kinds}
        for number, (reader, _) in enumerate(half):
            said = await asyncio.wait_for(reader.read(), 30)
            ends[kinds[number % len(kinds)]].add(said.split(b"\r\n", 1)[0])
            assert b"x-should-retry: false" not in said, "no engine has seen it"
        assert ends.pop("not a byte") == {b""}
        assert set(ends) == {kind for kind in kinds if kind != "not a byte"}
        for kind, said in ends.items():
            assert said == {b"HTTP/1.1 408 Request Timeout"}, kind
        assert await good(client, 5) == 5
        assert gateway._budget.used == 0


async def test_a_connection_that_asked_before_is_not_cut_off_between_two_requests() -> None:
    async with (
        RawEngine(answer) as engine,
        serving(engine, header=20, keep_alive=60) as gateway,
        AsyncExitStack() as stack,
    ):
        reader, writer = await connect(gateway, stack)
        body = json.dumps(ASK).encode()
        for _ in range(3):
            writer.write(request(body))
            assert (await reader.readuntil(REPLY)).startswith(b"HTTP/1.1 200")
            looks = len(gateway._watch.also)
            for look in gateway._watch.also:  # as if the next look came much later
                look(monotonic() + 30)
            assert looks


async def test_an_idle_connection_is_closed_after_keep_alive() -> None:
    async with (
        RawEngine(answer) as engine,
        serving(engine, keep_alive=0.3) as gateway,
        AsyncExitStack() as stack,
    ):
        reader, writer = await connect(gateway, stack)
        writer.write(request(json.dumps(ASK).encode()))
        assert (await asyncio.wait_for(reader.read(), 30)).endswith(REPLY)


async def test_slow_readers_are_cut_off_and_slow_nobody(fast: bool, eventually) -> None:
    async with (
        RawEngine(answer) as engine,
        serving(engine, fast, write_stall=1.0) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
        AsyncExitStack() as stack,
    ):
        assert await good(client, 1) == 1
        body = json.dumps({**ASK, "stream": True}).encode()
        many = MANY if fast else MANY // 10  # behind the head, both ways are one
        for _ in range(many):
            _, writer = await connect(gateway, stack, small=True)
            writer.transport.pause_reading()  # not a byte of the reply is read
            writer.write(request(body))
        await eventually(lambda: len(engine.posts) == many + 1, 30)
        assert await good(client, 50) == 50
        await eventually(lambda: in_flight(gateway) == 0, 30)
        server = gateway._runner.server
        await eventually(lambda: len(server.connections) <= 1, 30)
        assert await good(client, 5) == 5
        assert not gateway._watch.relays
        assert gateway._budget.used == 0


async def test_bodies_that_are_too_much_together_are_refused_unread(fast: bool) -> None:
    begun = asyncio.Event()
    over = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        begun.set()
        await over.wait()
        writer.write(WHOLE)

    large = json.dumps({**ASK, "user": "x" * 70_000}).encode()
    async with (
        RawEngine(wait) as engine,
        serving(engine, fast, body_budget=100_000) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        first = asyncio.create_task(post(client, large))
        await asyncio.wait_for(begun.wait(), 30)
        for _ in range(3):
            status, headers, reply = await post(client, large)
            assert status == 429
            assert headers["Retry-After"] == "1"
            assert json.loads(reply)["error"]["code"] == "queue_full"
        over.set()
        assert (await first)[0] == 200
        assert (await post(client, large))[0] == 200
        assert gateway._budget.used == 0
        assert len(engine.posts) == 2


async def post(client: aiohttp.ClientSession, body: bytes) -> tuple[int, Any, bytes]:
    async with client.post(CHAT, data=body, headers={"Content-Type": "application/json"}) as reply:
        return reply.status, reply.headers, await reply.read()
