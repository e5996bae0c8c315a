"""A client's connection: the short way and the long way say the same, however requests are cut and mixed."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from support.byte_engine import (
    Line,
    RawEngine,
    chunked,
    exchange,
    gateway_to,
    one_reply,
    post,
    stream_of,
)
from support.replies import read_replies

PATIENCE = 30.0
HELLO = {"model": "m", "messages": []}
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def echo(arrived, writer) -> None:
    """Says whose turn it is, as a stream where one is asked for."""
    user = arrived.json.get("user")
    if arrived.json.get("stream"):
        writer.write(STREAM + chunked(*stream_of(f"to {user}")))
    elif user == "refused":
        writer.write(one_reply(b'{"error":{"message":"no"}}', status="422 X"))
    else:
        writer.write(one_reply(json.dumps({"to": user}).encode()))


@pytest.fixture
async def engine():
    async with RawEngine() as engine:
        engine.answer = echo
        yield engine


@pytest.fixture
async def gateway(engine):
    async with gateway_to(engine) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog):
    yield
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def only_connection(gateway):
    (connection,) = gateway._runner.server.connections
    return connection


def user(name: str, **more: object) -> dict[str, object]:
    return {**HELLO, "user": name, **more}


def in_chunks(raw: bytes) -> bytes:
    head, _, body = raw.partition(b"\r\n\r\n")
    head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    return head + b"\r\n\r\n" + chunked(body[:7], body[7:])


# -- what we rely on -------------------------------------------------------------------------------


def test_aiohttp_is_the_one_whose_inside_we_know():
    assert aiohttp.__version__.startswith("3.14."), "read web_protocol.py again, then this file"
    for name in ("_process_keepalive", "_drain_helper", "data_received", "force_close"):
        assert callable(getattr(RequestHandler, name))


async def test_its_state_says_whether_it_is_between_two_requests(gateway, engine):
    inside = []

    async def answer(arrived, writer) -> None:
        connection = only_connection(gateway)
        inside.append((connection._between_requests(), connection._current_request is not None))
        await echo(arrived, writer)

    engine.answer = answer
    async with Line(gateway) as line:
        await line.ask(in_chunks(post(user("long"))))
        assert inside == [(False, True)], "the long way is aiohttp's"
    async with Line(gateway) as line:
        await line.ask(post(user("short")))
        assert inside[1:] == [(True, False)], "of the short way aiohttp knows nothing"


# -- the two ways ----------------------------------------------------------------------------------

CORPUS = {
    "plain": post(user("a")),
    "alias": post({**user("a"), "model": "other-name"}),
    "stream": post(user("a", stream=True)),
    "engine refuses": post(user("refused")),
    "id": post(user("a"), extra=b"x-request-id: mine\r\n"),
    "accept": post(user("a"), extra=b"Accept: */*\r\ntraceparent: x\r\n"),
    "unknown model": post({**HELLO, "model": "x"}),
    "no JSON": post(b"{"),
    "empty": post(b""),
    "stream of the wrong type": post({**HELLO, "stream": 1}),
    "other route": post(user("a"), "/v1/completions"),
    "unsupported route": post(user("a"), "/v1/messages"),
    "cookie": post(user("a"), extra=b"Cookie: a=b\r\n"),
    "in chunks": in_chunks(post(user("a"))),
    "compressed": post(user("a"), extra=b"Content-Encoding: gzip\r\n"),
    "close": post(user("a"), close=True),
    "large": post({**user("a"), "pad": "x" * 300_000}),
    "very large": post({**user("a"), "pad": "x" * 2_000_000}),
}


def alike(raw: bytes) -> list[object]:
    """Replies without what differs from one to the next."""
    return [
        (
            got.status,
            sorted(f for f in got.fields if f[0] not in {"date", "server", "x-request-id"}),
            re.sub(rb"req-[0-9a-f]+-[0-9a-f]+", b"ID", got.body),
            got.whole,
        )
        for got in read_replies(raw)
    ]


async def test_the_short_way_and_the_long_way_give_the_same_replies(gateway, engine):
    async with gateway_to(engine, fast=False) as long_way:
        for name, raw in CORPUS.items():
            short, engine.requests = await exchange(gateway, raw + post(user("z"), close=True)), []
            long = await exchange(long_way, raw + post(user("z"), close=True))
            if name in {"plain", "alias", "stream", "id", "accept", "other route"}:
                strip = re.compile(rb"x-request-id: req-\S+")
                assert strip.sub(b"", short) == strip.sub(b"", long), name
            assert alike(short) == alike(long), name
            for got in read_replies(short):
                assert got.get("x-request-id"), name


@pytest.mark.parametrize("fast", [True, False])
async def test_a_request_may_be_cut_at_any_byte(fast, engine):
    raw = post(user("cut"))
    async with gateway_to(engine, fast=fast) as gateway, Line(gateway) as line:
        for at in range(1, len(raw)):
            got = await line.ask(raw[:at], b"", b"", raw[at:])
            assert got.json == {"to": "cut"}, at
        assert line.opened == 1
        assert len(engine.requests) == len(raw) - 1


@pytest.mark.parametrize("fast", [True, False])
async def test_byte_by_byte_is_no_different(fast, engine):
    raw = post(user("bytes"), close=True)
    async with gateway_to(engine, fast=fast) as gateway:
        (got,) = read_replies(await exchange(gateway, *(raw[i : i + 1] for i in range(len(raw)))))
        assert got.json == {"to": "bytes"}


def said(got) -> str:
    """Whom a reply is for."""
    if got.get("content-type") == "text/event-stream":
        return re.search(rb"to (\w+)", got.body)[1].decode()
    return got.json.get("to") or got.json.get("status")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("seed", range(12))
async def test_requests_of_all_kinds_behind_one_another_are_answered_in_order(fast, seed, engine):
    chance = random.Random(seed)
    raw, wanted = b"", []
    for number in range(chance.randint(2, 5)):
        name = f"n{number}"
        kinds = [post(user(name))] * 3 if seed % 2 else [GET, post(user(name))]
        kinds += [post(user(name, stream=True))]
        if not seed % 2:
            kinds += [in_chunks(post(user(name)))]
        picked = chance.choice(kinds)
        raw += picked
        wanted.append("ok" if picked is GET else name)
    raw += post(user("last"), close=True)
    wanted.append("last")
    cuts = sorted(chance.sample(range(1, len(raw)), chance.choice([0, 1, 2, 5])))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    async with gateway_to(engine, fast=fast) as gateway:
        replies = read_replies(await exchange(gateway, *pieces))
        assert [got.status for got in replies] == [200] * len(wanted)
        assert [said(got) for got in replies] == wanted
        posts = [name for name in wanted if name != "ok"]
        assert [arrived.json["user"] for arrived in engine.requests] == posts


@pytest.mark.parametrize("count", [2, 5, 40])
async def test_many_in_one_segment_are_each_sent_once(count, gateway, engine):
    raw = b"".join(post(user(str(n))) for n in range(count - 1)) + post(user("end"), close=True)
    replies = read_replies(await exchange(gateway, raw))
    assert [got.json["to"] for got in replies] == [*map(str, range(count - 1)), "end"]
    assert len(engine.requests) == count


# -- clocks ----------------------------------------------------------------------------------------


async def test_the_clock_for_idle_connections_does_not_end_a_long_stream(gateway, engine):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def answer(arrived, writer) -> None:
        events = stream_of("a", "b")
        writer.write(STREAM + chunked(events[0], end=b""))
        begun.set()
        await go_on.wait()
        writer.write(chunked(*events[1:]))

    async with Line(gateway) as line:
        await line.ask(post(user("first")))  # begins the clock
        engine.answer = answer
        asked = asyncio.ensure_future(line.ask(post(user("a", stream=True))))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        connection = only_connection(gateway)
        assert connection.relay is not None
        assert connection._keepalive_handle is not None
        connection._next_keepalive_close_time = 0.0
        connection._process_keepalive()  # its time has come
        await asyncio.sleep(0)
        go_on.set()
        assert (await asked).body == b"".join(stream_of("a", "b"))
        assert (await line.ask(post(user("a", stream=True)))).status == 200
        assert line.opened == 1


async def test_a_connection_that_only_took_the_short_way_ends_when_it_is_idle(gateway, eventually):
    async with Line(gateway) as line:
        await line.ask(post(user("a")))
        connection = only_connection(gateway)
        assert connection._keepalive_handle is not None, "the clock runs"
        assert connection._request_count == 0, "aiohttp has seen no request"
        connection._next_keepalive_close_time = 0.0
        connection._process_keepalive()
        await eventually(lambda: not gateway._runner.server.connections, PATIENCE)


# -- clients that leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
async def test_a_client_may_leave_at_any_byte_of_its_request(fast, engine, eventually):
    raw = post(user("gone")) + post(user("gone, too"))
    async with gateway_to(engine, fast=fast) as gateway:
        for at in range(0, len(raw) + 1, 5):
            _, writer = await asyncio.open_connection(*gateway.address)
            writer.write(raw[:at])
            for _ in range(at % 7):
                await asyncio.sleep(0)
            writer.transport.abort()
        await eventually(lambda: not gateway._runner.server.connections, PATIENCE)
        (row,) = gateway.manager.status()
        assert row.in_flight == 0
        assert gateway._watch.relays == set()
        async with Line(gateway) as line:
            assert (await line.ask(post(user("here")))).json == {"to": "here"}


@pytest.mark.parametrize("fast", [True, False])
async def test_a_client_that_does_not_read_leaves_no_connection_paused(fast, engine, eventually):
    big = b'"' + b"x" * 6_000_000 + b'"'

    async def answer(arrived, writer) -> None:
        writer.write(one_reply(big if arrived.json.get("user") == "big" else b'{"to":"small"}'))

    engine.answer = answer
    async with gateway_to(engine, fast=fast) as gateway:
        reader, writer = await asyncio.open_connection(*gateway.address, limit=2**16)
        writer.write(post(user("big")))
        await eventually(lambda: engine.requests, PATIENCE)
        await eventually(lambda: not gateway._watch.relays, PATIENCE)
        async with Line(gateway) as line:
            for _ in range(3):
                assert (await line.ask(post(user("small")))).json == {"to": "small"}
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(big)) == big
        writer.transport.abort()
