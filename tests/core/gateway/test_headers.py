"""What passes between client and engine besides bodies: what is on a short list, and nothing else."""

from __future__ import annotations

import pytest

from enginery import EngineManager, Settings
from enginery.gateway import Gateway
from support.byte_engine import (
    REPLY,
    Line,
    RawEngine,
    chunked,
    exchange,
    gateway_to,
    one_reply,
    post,
    stream_of,
)
from support.replies import assert_error_shape, read_replies

HELLO = {"model": "m", "messages": []}
PRIVATE = (
    b"Cookie: session=secret\r\nX-Forwarded-For: 1.2.3.4\r\n"
    b"X-Forwarded-Host: secret\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=secret\r\nVia: 1.1 secret\r\n"
    b"Proxy-Authorization: Basic secret\r\nX-Api-Key: secret\r\nOpenAI-Organization: secret\r\n"
    b"User-Agent: secret/1\r\nReferer: http://localhost/secret\r\nAccept-Encoding: gzip\r\n"
    b"Accept-Language: secret\r\nanthropic-version: secret\r\nX-Anything: secret\r\nTE: trailers\r\n"
    b"Keep-Alive: timeout=5\r\nAuthorization: Bearer secret\r\n"
)
WANTED = b"Accept: text/event-stream\r\ntraceparent: 00-abc-def-01\r\nx-request-id: mine-1\r\n"
DROPPED = (
    b"Set-Cookie: a=b\r\nset-cookie2: c\r\nAccess-Control-Allow-Origin: *\r\n"
    b"access-control-expose-headers: x\r\nX-Request-Id: the-engines\r\nKeep-Alive: timeout=5\r\n"
    b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
    b"Trailer: X\r\nStrict-Transport-Security: max-age=1\r\n"
)
PASSED = b"X-Engine-Says: hello\r\nServer: engine/1\r\n"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("in_chunks", [False, True])
async def test_an_engine_gets_the_headers_on_the_list_and_no_others(fast, in_chunks):
    raw = post(HELLO, extra=PRIVATE + WANTED, close=True)
    if in_chunks:
        head, _, body = raw.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        raw = head + b"\r\n\r\n" + chunked(body)
    async with RawEngine() as engine, gateway_to(engine, fast=fast) as gateway:
        (got,) = read_replies(await exchange(gateway, raw))
        assert got.status == 200
        assert got.get("x-request-id") == "mine-1"
        (arrived,) = engine.requests
        assert dict(arrived.fields) == {
            "Host": f"127.0.0.1:{engine.port}",
            "Content-Type": "application/json",
            "accept": "text/event-stream",
            "traceparent": "00-abc-def-01",
            "x-request-id": "mine-1",
            "Content-Length": str(len(arrived.body)),
        }
        assert len(arrived.fields) == 6
        assert b"secret" not in b"".join(engine.raw.values())


@pytest.mark.parametrize("fast", [True, False])
async def test_without_any_the_engine_gets_an_id_and_its_own_key(fast):
    async with RawEngine() as engine:
        settings = Settings(
            models={"m": {"engine": "openai", "url": engine.url, "api_key": "the-engines-key"}},
            defaults={"shutdown_timeout": 0.2},
        )
        async with (
            EngineManager(settings) as manager,
            Gateway(manager, host="127.0.0.1", port=0, fast=fast) as gateway,
            Line(gateway) as line,
        ):
            for _ in range(3):
                got = await line.ask(post(HELLO, extra=b"Authorization: Bearer the-clients\r\n"))
                fields = dict(engine.requests[-1].fields)
                assert fields.pop("Authorization") == "Bearer the-engines-key"
                assert fields.pop("x-request-id") == got.get("x-request-id")
                assert set(fields) == {"Host", "Content-Type", "Content-Length"}
            ids = [dict(arrived.fields)["x-request-id"] for arrived in engine.requests]
            assert len(set(ids)) == 3


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["reply", "stream", "refusal"])
async def test_what_is_the_engines_own_affair_does_not_reach_the_client(fast, kind):
    async def answer(_, writer) -> None:
        extra = DROPPED + PASSED
        if kind == "stream":
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            writer.write(head + extra + b"\r\n" + chunked(*stream_of("a")))
        else:
            status = "200 OK" if kind == "reply" else "400 Bad Request"
            writer.write(one_reply(REPLY if kind == "reply" else b"{}", status=status, extra=extra))

    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        engine.answer = answer
        for _ in range(2):
            got = await line.ask(post(HELLO, extra=b"x-request-id: mine\r\n"))
            names = {name for name, _ in got.fields}
            assert got.get("x-request-id") == "mine"
            ours = {"content-type", "content-length", "transfer-encoding", "x-request-id"}
            ours |= {"date", "server", "x-should-retry"}
            if kind == "refusal":
                assert_error_shape(got)
                assert names <= ours
            else:
                assert got.get("x-engine-says") == "hello"
                assert names <= ours | {"x-engine-says"}
        assert line.opened == 1


# -- what a body may be ----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (post(HELLO, extra=b"Content-Encoding: gzip\r\n"), 415, "unsupported_media_type"),
        (post(HELLO, extra=b"Content-Encoding: br\r\n"), 415, "unsupported_media_type"),
        (
            post(HELLO).replace(b"application/json", b"multipart/form-data; boundary=x"),
            415,
            "unsupported_media_type",
        ),
        (post(HELLO).replace(b"application/json", b"text/plain"), 415, "unsupported_media_type"),
        (post({"model": "mm", "messages": []}), 404, "model_not_found"),
        (post(HELLO, "/v1/embeddings"), 404, "endpoint_not_supported"),
        (post(HELLO, "/v1/nothing"), 404, "endpoint_not_supported"),
        (post(HELLO, "/nothing"), 404, "endpoint_not_supported"),
        (post(b""), 400, "invalid_request_error"),
        (post(b'{"model":'), 400, "invalid_request_error"),
        (post({"messages": []}), 400, "invalid_request_error"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_stays(raw, status, code, fast):
    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast) as gateway,
        Line(gateway) as line,
    ):
        for _ in range(2):
            got = await line.ask(raw)
            assert got.status == status
            assert assert_error_shape(got)["code"] == code
        assert (await line.ask(post(HELLO))).status == 200
        assert line.opened == 1
        assert len(engine.requests) == 1


async def test_an_unknown_model_is_told_the_nearest_names():
    async with RawEngine() as engine, gateway_to(engine) as gateway, Line(gateway) as line:
        got = await line.ask(post({"model": "other-nam", "messages": []}))
        assert "other-name" in assert_error_shape(got)["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/health", "GET"),
        ("POST", "/v1/models/m", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(method, path, allowed):
    async with RawEngine() as engine, gateway_to(engine) as gateway:
        raw = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        (got,) = read_replies(await exchange(gateway, raw))
        assert got.status == 405
        assert assert_error_shape(got)["code"] == "method_not_allowed"
        assert allowed in got.get("allow").split(", ")
        assert engine.requests == []


@pytest.mark.parametrize("fast", [True, False])
async def test_a_body_over_the_limit_is_refused_by_its_length_alone(fast):
    async with RawEngine() as engine, gateway_to(engine, fast=fast, warm=False) as gateway:
        head = (
            post(HELLO)
            .partition(b"\r\n\r\n")[0]
            .replace(b"Content-Length: 30", b"Content-Length: %d" % (2**26 + 1))
        )
        assert b"67108865" in head
        async with Line(gateway) as line:
            got = await line.ask(head + b"\r\n\r\n{")  # 64 MiB are not sent
            assert got.status == 413
            assert assert_error_shape(got)["code"] == "body_too_large"


@pytest.mark.parametrize("fast", [True, False])
async def test_a_body_in_chunks_is_read_to_the_limit_and_not_further(fast):
    async with (
        RawEngine() as engine,
        gateway_to(engine, fast=fast, server={"body_limit": 100_000}) as gateway,
        Line(gateway) as line,
    ):
        head = (
            post(HELLO)
            .partition(b"\r\n\r\n")[0]
            .replace(b"Content-Length: 30", b"Transfer-Encoding: chunked")
        )
        part = chunked(b" " * 50_000, end=b"")
        got = await line.ask(head + b"\r\n\r\n", part, part, part)  # without an end
        assert got.status == 413
        assert_error_shape(got)
        assert engine.requests == []


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_of_http_1_0_gets_no_chunks_and_a_close(fast, streams):
    async def answer(_, writer) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + chunked(*stream_of("a", "b")) if streams else one_reply())

    async with RawEngine() as engine, gateway_to(engine, fast=fast) as gateway:
        engine.answer = answer
        raw = post({**HELLO, "stream": streams}).replace(b"HTTP/1.1", b"HTTP/1.0")
        for request in (raw, raw.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1)):
            (got,) = read_replies(await exchange(gateway, request))  # to the connection's end
            assert got.status == 200
            assert got.get("transfer-encoding") is None
            assert got.body == (b"".join(stream_of("a", "b")) if streams else REPLY)
