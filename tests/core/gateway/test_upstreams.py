"""Connections to engines, over real sockets: used again when that is safe, and each request sent once."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import tempfile
from time import monotonic

import pytest

from enginery.errors import EngineUnreachable
from enginery.gateway.upstreams import IDLE_LIMIT, Upstream, UpstreamPool
from enginery.values import Endpoint
from support.byte_engine import Line, RawEngine, chunked, gateway_to, one_reply, post, stream_of

pytestmark = pytest.mark.both_loops

PATIENCE = 30.0
HEAD = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
HELLO = {"model": "m", "messages": []}

# For localhost, valid for a hundred years, known to nobody.
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzzCYYNaVCjavj5GI
3H119bvIjnqMpMSPNotfXH/R9cChRANCAAQqJp++n/nZt/urq/DztE3zKauuF83Y
h/pFGaK/eWcmHMjpZ1GxOEip5Qg+6VYno0YMsmJApHPEjE+6eFACqmDY
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIULNfTvi2B/kbGbSe8yN7wpJ4lMfEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTEwMzYzOVoYDzIxMjYxMDI4
MTAzNjM5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQqJp++n/nZt/urq/DztE3zKauuF83Yh/pFGaK/eWcmHMjpZ1GxOEip
5Qg+6VYno0YMsmJApHPEjE+6eFACqmDYo28wbTAdBgNVHQ4EFgQUS9sJvbnskZI3
YsaDP/c1rysbuTIwHwYDVR0jBBgwFoAUS9sJvbnskZI3YsaDP/c1rysbuTIwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgeiWFjC3TU0iZUSYqnz24XPaQprkLZs2yEn54VIgn6KcCIFNi
LzORt47IdwtF6z9XjTf/S5Ce7JEzFAElwkC8xl/V
-----END CERTIFICATE-----
"""


class Asked:
    """An `Exchange` that waits for a reply with a length."""

    def __init__(self) -> None:
        self.body = b""
        self.length: int | None = None
        self.over: asyncio.Future[Exception | bytes | None] = (
            asyncio.get_running_loop().create_future()
        )

    def on_head(self, head, rest: bytes) -> None:
        self.length = head.framing.length
        self.on_body(rest)

    def on_body(self, data: bytes) -> None:
        self.body += data
        if self.length is not None and len(self.body) >= self.length and not self.over.done():
            self.over.set_result(self.body)

    def on_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(error)


@pytest.fixture
def pool():
    pool = UpstreamPool()
    yield pool
    pool.close()


@pytest.fixture
async def engine():
    async with RawEngine() as engine:
        yield engine


def at(engine: RawEngine) -> Endpoint:
    return Endpoint("127.0.0.1", engine.port)


async def ask(pool: UpstreamPool, endpoint: Endpoint, *, reusable: bool = True):
    """One request; the connection that carried it, and what came."""
    upstream = pool.take(endpoint, monotonic()) or await pool.connect(endpoint, 4)
    asked = Asked()
    upstream.send(asked, HEAD, b"{}")
    async with asyncio.timeout(PATIENCE):
        got = await asked.over
    upstream.detach(reusable=reusable)
    return upstream, got


async def test_a_connection_is_used_again(pool, engine):
    first, got = await ask(pool, at(engine))
    second, _ = await ask(pool, at(engine))
    assert second is first
    assert got == one_reply().partition(b"\r\n\r\n")[2]
    assert [arrived.connection for arrived in engine.requests] == [1, 1]


async def test_one_that_carried_what_it_should_not_is_closed(pool, engine, eventually):
    first, _ = await ask(pool, at(engine), reusable=False)
    second, _ = await ask(pool, at(engine))
    assert second is not first
    await eventually(lambda: engine.open_connections == 1, PATIENCE)


async def test_a_look_while_one_opens_does_not_lose_it(pool, engine):
    opening = asyncio.ensure_future(pool.connect(at(engine), 4))
    await asyncio.sleep(0)
    pool.prune(monotonic())
    upstream = await opening
    upstream.detach(reusable=True)
    assert pool.take(at(engine), monotonic()) is upstream
    upstream.detach(reusable=True)
    pool.prune(monotonic() + 2 * IDLE_LIMIT)
    assert upstream.transport is None or upstream.transport.is_closing()


async def test_an_engine_that_wants_a_close_gets_one(pool, engine):
    async def answer(_, writer) -> None:
        writer.write(one_reply(extra=b"Connection: close\r\n"))

    engine.answer = answer
    await ask(pool, at(engine))
    assert pool.take(at(engine), monotonic()) is None


async def test_a_connection_that_the_engine_has_closed_is_not_used(pool, engine, eventually):
    await ask(pool, at(engine))
    engine.hang_up()
    await eventually(lambda: engine.open_connections == 0, PATIENCE)
    assert pool.take(at(engine), monotonic()) is None


async def test_nor_is_one_whose_end_has_come_but_was_not_read_yet(pool):
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint("127.0.0.1", server.getsockname()[1])
        upstream = await pool.connect(endpoint, 4)
        engine, _ = server.accept()
        upstream.detach(reusable=True)
        assert pool.take(endpoint, monotonic()) is upstream
        upstream.detach(reusable=True)
        engine.close()
        ours = select.poll()
        ours.register(upstream.transport.get_extra_info("socket").fileno(), select.POLLIN)
        assert ours.poll(PATIENCE * 1000), "it has come"
        assert upstream.transport is not None, "and the loop had no turn to read it"
        assert pool.take(endpoint, monotonic()) is None


async def test_nor_is_one_on_which_something_came_that_nobody_asked_for(pool, engine, eventually):
    first, _ = await ask(pool, at(engine))
    next(iter(engine._writers.values())).write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await eventually(lambda: first.transport is None, PATIENCE)
    assert pool.take(at(engine), monotonic()) is None


async def test_nor_one_that_was_idle_for_too_long(pool, engine, eventually):
    first, _ = await ask(pool, at(engine))
    assert pool.take(at(engine), first.free_at + IDLE_LIMIT) is None
    await eventually(lambda: engine.open_connections == 0, PATIENCE)


async def test_idle_connections_are_closed_in_time_and_engines_forgotten(pool, engine, eventually):
    first, _ = await ask(pool, at(engine))
    pool.prune(first.free_at + IDLE_LIMIT / 2)
    assert first.transport is not None
    pool.prune(first.free_at + IDLE_LIMIT)
    await eventually(lambda: engine.open_connections == 0 and first.transport is None, PATIENCE)
    pool.prune(0.0)
    assert pool._pools == {}


async def test_no_more_are_kept_than_the_engine_works_on(pool, engine, eventually):
    endpoint = at(engine)
    upstreams = [await pool.connect(endpoint, 4) for _ in range(7)]
    for upstream in upstreams:
        upstream.detach(reusable=True)
    kept = [pool.take(endpoint, monotonic()) for _ in range(7)]
    assert kept == [*upstreams[:4][::-1], None, None, None]
    await eventually(lambda: sum(u.transport is None for u in upstreams) == 3, PATIENCE)


async def test_after_an_event_stream_it_rests_first(pool, engine):
    endpoint = at(engine)
    upstream = await pool.connect(endpoint, 4)
    upstream.detach(reusable=True, rest=5.0)
    assert pool.take(endpoint, monotonic()) is None
    assert pool.take(endpoint, upstream.free_at) is upstream


async def answered_after_a_stream(pool: UpstreamPool, endpoint: Endpoint) -> Upstream:
    """A connection that carried a stream, rested, and carried another."""
    upstream = await pool.connect(endpoint, 4)
    upstream.detach(reusable=True, rest=5.0)
    assert pool.take(endpoint, upstream.free_at) is upstream
    asked = Asked()
    upstream.send(asked, HEAD, b"{}")
    async with asyncio.timeout(PATIENCE):
        await asked.over
    upstream.detach(reusable=True, rest=5.0)
    return upstream


async def test_once_its_engine_has_answered_behind_a_stream_it_does_not(pool, engine):
    upstream = await answered_after_a_stream(pool, at(engine))
    assert pool.take(at(engine), monotonic()) is upstream


async def test_unless_it_closes_one_that_carried_a_stream(pool, engine, eventually):
    first = await answered_after_a_stream(pool, at(engine))
    engine.hang_up()
    await eventually(lambda: first.transport is None, PATIENCE)
    second = await pool.connect(at(engine), 4)
    second.detach(reusable=True, rest=5.0)
    assert pool.take(at(engine), monotonic()) is None
    assert pool.take(at(engine), second.free_at) is second


@pytest.mark.parametrize("big", [10, 1_000_000])
async def test_a_request_arrives_as_it_was_sent(pool, engine, big):
    body = b"x" * big
    upstream = await pool.connect(at(engine), 4)
    asked = Asked()
    upstream.send(asked, HEAD.replace(b": 2", b": %d" % big), body)
    async with asyncio.timeout(PATIENCE):
        await asked.over
    assert engine.requests[0].body == body


async def test_an_engine_on_a_unix_socket(pool):
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/e.sock"
        async with RawEngine(unix_path=path) as engine:
            endpoint = Endpoint("localhost", 0, unix_path=path)
            first, _ = await ask(pool, endpoint)
            second, _ = await ask(pool, endpoint)
            assert first is second
            assert len(engine.requests) == 2


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "engine.pem"
    file.write_text(KEY + CERTIFICATE)
    return file


async def test_an_engine_behind_tls(pool, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with RawEngine(tls=context) as engine:
        endpoint = Endpoint("localhost", engine.port, scheme="https")
        first, got = await ask(pool, endpoint)
        assert isinstance(got, bytes)
        second, _ = await ask(pool, endpoint)
        assert len(engine.requests) == 2
        assert first is second


async def test_an_engine_whose_certificate_nobody_vouches_for_is_unreachable(pool, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with RawEngine(tls=context) as engine:
        endpoint = Endpoint("localhost", engine.port, scheme="https")
        with pytest.raises(EngineUnreachable, match="certificate"):
            await pool.connect(endpoint, 4)
        assert pool._pools[endpoint].is_empty, "what never was a connection is not remembered"
        assert engine.requests == []


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint("127.0.0.1", 1),
        Endpoint("localhost", 0, unix_path="/nonexistent/e.sock"),
        Endpoint("x" * 70 + ".invalid", 80),
    ],
)
async def test_where_nobody_listens_is_said(pool, endpoint):
    with pytest.raises(EngineUnreachable):
        await pool.connect(endpoint, 4)
    assert pool._pools[endpoint].is_empty


# -- through a gateway -----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
async def test_an_engine_that_closes_behind_each_reply_gets_each_request_once(fast, eventually):
    async def answer(_, writer) -> None:
        writer.write(one_reply())  # as if it were to be kept
        writer.close()

    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        engine.answer = answer
        for count in range(1, 21):
            assert (await line.ask(post({**HELLO, "user": str(count)}))).status == 200
            await eventually(lambda: engine.open_connections == 0, PATIENCE)
        assert [arrived.json["user"] for arrived in engine.requests] == [
            str(count) for count in range(1, 21)
        ]
        assert len({arrived.connection for arrived in engine.requests}) == 20


@pytest.mark.parametrize("fast", [True, False])
async def test_requests_one_after_the_other_share_a_connection(fast):
    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        for _ in range(5):
            await line.ask(post(HELLO))
        assert len({arrived.connection for arrived in engine.requests}) == 1


@pytest.mark.parametrize("fast", [True, False])
async def test_surplus_bytes_never_become_the_next_reply(fast):
    async def answer(_, writer) -> None:
        writer.write(one_reply() + one_reply(b'{"for":"another"}'))

    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        engine.answer = answer
        for _ in range(5):
            got = await line.ask(post(HELLO))
            assert b"another" not in got.body
            assert got.status == 200
        assert len(engine.requests) == 5


@pytest.mark.parametrize("fast", [True, False])
async def test_streams_one_after_the_other_are_each_whole(fast):
    async def answer(_, writer) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + chunked(*stream_of("a", "b")))
        writer.close()  # llama.cpp closes behind a stream, and does not say so

    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        engine.answer = answer
        for _ in range(5):
            got = await line.ask(post({**HELLO, "stream": True}))
            assert got.body == b"".join(stream_of("a", "b"))
        assert len(engine.requests) == 5
