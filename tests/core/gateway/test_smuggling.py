"""Requests that two parsers could read in two ways: answered once, or refused, and never half of one.

A raw engine behind the gateway records what arrives. Run with aiohttp's parser in C, and once more in a
child with the one in Python.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

from support.byte_engine import RawEngine, exchange, gateway_to
from support.replies import assert_error_shape, read_replies

CHAT = b"/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
EVIL = b'{"model":"m","messages":["SMUGGLED"]}'
JSON = b"Content-Type: application/json\r\n"
SECOND = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b" % (
    CHAT,
    JSON,
    len(EVIL),
    EVIL,
)
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
IN_PYTHON = bool(os.environ.get("AIOHTTP_NO_EXTENSIONS"))


def request(
    *fields: bytes,
    first: bytes = b"POST %b HTTP/1.1" % CHAT,
    host: bytes = b"Host: localhost",
    body: bytes = BODY,
    kind: bytes = b"Content-Type: application/json",
) -> bytes:
    lines = [line for line in (first, host, kind, *fields) if line]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def chunked(body: bytes, *fields: bytes) -> bytes:
    return request(CHUNKED, *fields, body=body)


# name -> bytes; every one is followed by a GET that closes, and none may bring an engine the second POST
REFUSED = {
    "length and chunks": request(LENGTH, CHUNKED, body=b"0\r\n\r\n" + SECOND),
    "chunks and length": request(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SECOND),
    "length 0 and chunks": request(b"Content-Length: 0", CHUNKED, body=IN_CHUNKS + SECOND),
    "two lengths": request(LENGTH, b"Content-Length: 0") + SECOND,
    "two lengths, the other way": request(b"Content-Length: 0", LENGTH) + SECOND,
    "two lengths in one line": request(LENGTH + b", 0") + SECOND,
    "length with a plus": request(b"Content-Length: +%d" % len(BODY)) + SECOND,
    "negative length": request(b"Content-Length: -1") + SECOND,
    "length in hex": request(b"Content-Length: 0x1b") + SECOND,
    "length with an underscore": request(b"Content-Length: 2_7") + SECOND,
    "length with a blank inside": request(b"Content-Length: 2 7") + SECOND,
    "empty length": request(b"Content-Length:") + SECOND,
    "huge length": request(b"Content-Length: 99999999999999999999999") + SECOND,
    "length of 5000 digits": request(b"Content-Length: " + b"9" * 5000) + SECOND,
    "length in other digits": request("Content-Length: ٢٧".encode()) + SECOND,
    "blank before the colon": request(b"Content-Length : %d" % len(BODY)) + SECOND,
    "tab before the colon": request(b"Transfer-Encoding\t: chunked", body=IN_CHUNKS) + SECOND,
    "folded length": request(b"Content-Length:\r\n 27") + SECOND,
    "folded header": request(b"X: a\r\n b", LENGTH) + SECOND,
    "folded coding": request(b"Transfer-Encoding:\r\n chunked", body=IN_CHUNKS) + SECOND,
    "field that begins with a blank": request(b" X: a", LENGTH) + SECOND,
    "NUL in a value": request(b"X: a\0b", LENGTH) + SECOND,
    "NUL in a name": request(b"X\0: a", LENGTH) + SECOND,
    "bare CR in a value": request(b"X: a\rContent-Length: 0", LENGTH) + SECOND,
    "field without a colon": request(b"Xyz", LENGTH) + SECOND,
    "field without a name": request(b": a", LENGTH) + SECOND,
    "brackets in a name": request(b"X[]: a", LENGTH) + SECOND,
    "unknown coding": request(b"Transfer-Encoding: xchunked", body=IN_CHUNKS) + SECOND,
    "coding with a vertical tab": request(b"Transfer-Encoding: \x0bchunked", body=IN_CHUNKS),
    "chunked twice": request(b"Transfer-Encoding: chunked, chunked", body=IN_CHUNKS) + SECOND,
    "chunked not last": request(b"Transfer-Encoding: chunked, gzip", body=IN_CHUNKS) + SECOND,
    "two codings": request(CHUNKED, b"Transfer-Encoding: identity", body=IN_CHUNKS) + SECOND,
    "chunk size that is none": chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "negative chunk size": chunked(b"-1\r\n{}\r\n0\r\n\r\n"),
    "chunk size with 0x": chunked(b"0x1b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a plus": chunked(b"+1b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a blank before": chunked(b" 1b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size of 30 digits": chunked(b"f" * 30 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk that is longer than it says": chunked(b"1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size that ends with LF": chunked(b"1b\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension with LF": chunked(b"1b;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk data that ends with LF": chunked(b"1b\r\n" + BODY + b"\n0\r\n\r\n"),
    "bare LF": request(LENGTH).replace(b"\r\n", b"\n") + SECOND,
    "one bare LF": request(b"X: a\nContent-Length: 0", LENGTH) + SECOND,
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in the line": request(LENGTH, first=b"POST %b HTTP/2.0" % CHAT),
    "HTTP/3 in the line": request(LENGTH, first=b"POST %b HTTP/3" % CHAT),
    "version that is none": request(LENGTH, first=b"POST %b HTTP/x.y" % CHAT),
    "another protocol": request(LENGTH, first=b"POST %b ICE/1.1" % CHAT),
    "lower-case http": request(LENGTH, first=b"POST %b http/1.1" % CHAT),
    "no version": b"POST %b\r\n\r\n" % CHAT,
    "method that is none": request(LENGTH, first=b"P{ST %b HTTP/1.1" % CHAT),
    "method with a colon": request(LENGTH, first=b"PO:ST %b HTTP/1.1" % CHAT),
    "blank in the target": request(LENGTH, first=b"POST /v1/chat/ completions HTTP/1.1"),
    "NUL in the target": request(LENGTH, first=b"POST /v1/\0 HTTP/1.1"),
    "nothing but blanks": b"   \r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
    "header that is too long": request(b"X: " + b"y" * 20_000, LENGTH),
    "target that is too long": request(LENGTH, first=b"POST /" + b"y" * 20_000 + b" HTTP/1.1"),
    "unknown path": request(LENGTH, first=b"POST /v1/nothing HTTP/1.1"),
    "path that goes up": request(LENGTH, first=b"POST /v1/../admin HTTP/1.1"),
    "asterisk": request(LENGTH, first=b"OPTIONS * HTTP/1.1"),
    "GET with a body": request(LENGTH, first=b"GET %b HTTP/1.1" % CHAT),
    "DELETE": request(LENGTH, first=b"DELETE %b HTTP/1.1" % CHAT),
    "coding in odd bytes": request(LENGTH, b"Content-Encoding: \xff"),
    "content type in odd bytes": request(LENGTH, kind=b"Content-Type: \xff"),
    "gzip": request(LENGTH, b"Content-Encoding: gzip"),
    "multipart": request(LENGTH, kind=b"Content-Type: multipart/form-data; boundary=x"),
    "no content type": request(LENGTH, kind=b""),
    "another charset": request(LENGTH, kind=b"Content-Type: application/json; charset=utf-16"),
    "no body": request(b"Content-Length: 0", body=b""),
    "neither length nor chunks": request(body=b""),
    "empty chunks": chunked(b"0\r\n\r\n"),
}
ANSWERED = {
    "plain": request(LENGTH),
    "two codings and one of them empty names": request(LENGTH, b"TE: trailers"),
    "length with zeros": request(b"Content-Length: 00%d" % len(BODY)),
    "in chunks": chunked(IN_CHUNKS),
    "upper-case hex": chunked(b"1B\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "size with zeros": chunked(b"0001b\r\n" + BODY + b"\r\n000\r\n\r\n"),
    "chunk extension": chunked(b"1b;name=value\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "trailers": chunked(b"1b\r\n" + BODY + b"\r\n0\r\nX-Trailer: a\r\n\r\n"),
    "chunks named in capitals": request(b"Transfer-Encoding: CHUNKED", body=IN_CHUNKS),
    "two chunks": chunked(b"1\r\n{\r\n1a\r\n" + BODY[1:] + b"\r\n0\r\n\r\n"),
    "expects 100": request(LENGTH, b"Expect: 100-continue"),
    "expects something else": request(LENGTH, b"Expect: the-unexpected"),
    "upgrade": request(LENGTH, b"Connection: keep-alive", b"X: y"),
    "empty lines before": b"\r\n" + request(LENGTH),
    "odd bytes in a value": request(LENGTH, b"Accept: \xff\xfe", b"traceparent: \xe9"),
    "odd bytes in the id": request(LENGTH, b"X-Request-Id: \xff"),
    "id with blanks": request(LENGTH, b"X-Request-Id: a b"),
    "query": request(LENGTH, first=b"POST %b?x=%%0d%%0aHost:%%20y HTTP/1.1" % CHAT),
    "absolute form": request(LENGTH, first=b"POST http://localhost%b HTTP/1.1" % CHAT),
    "unknown headers": request(LENGTH, b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=x"),
    "charset": request(LENGTH, kind=b"Content-Type: application/json; charset=UTF-8"),
    "many headers": request(LENGTH, *(b"X-%d: %d" % (i, i) for i in range(60))),
    "tabs around a value": request(b"Content-Length:\t%d \t" % len(BODY)),
}


if IN_PYTHON:
    del REFUSED["chunk size of 30 digits"]  # it waits for them, to the limit of a body
    del REFUSED["huge length"]  # a 413, behind which aiohttp lingers for ten seconds


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog):
    yield
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def check_engine(engine: RawEngine) -> None:
    assert engine.strange == []
    for arrived in engine.requests:
        assert arrived.path == CHAT.decode()
        assert json.loads(arrived.body) == json.loads(BODY)


async def each(cases: dict[str, bytes], check, *, fast: bool) -> None:
    """Every case on a connection of its own to one gateway; all that fail are named."""
    failed: dict[str, str] = {}
    async with RawEngine() as engine, gateway_to(engine, fast=fast) as gateway:
        for name, raw in cases.items():
            engine.requests.clear()
            replies = read_replies(await exchange(gateway, raw + LAST))
            try:
                assert engine.strange == []
                check(replies, engine.requests)
            except AssertionError as error:
                failed[name] = f"{error}: {replies}"
    assert failed == {}


@pytest.mark.parametrize("fast", [True, False])
async def test_it_is_refused_in_our_shape_and_no_engine_sees_a_second_request(fast):
    def check(replies, arrived) -> None:
        assert arrived == []
        first, *more = replies
        assert_error_shape(first)
        assert first.status < 500
        assert first.status != 403, "what is tested lies behind the door"
        assert len(more) <= 1, "a refusal is followed by the GET's reply or by nothing"

    await each(REFUSED, check, fast=fast)


@pytest.mark.parametrize("fast", [True, False])
async def test_it_is_answered_once_and_what_follows_is_the_next_request(fast):
    def check(replies, arrived) -> None:
        assert [got.status for got in replies] == [200, 200]
        (one,) = arrived
        assert one.path == CHAT.decode()
        assert one.json == json.loads(BODY)

    await each(ANSWERED, check, fast=fast)


@pytest.mark.skipif(IN_PYTHON, reason="this is the child")
def test_the_same_with_aiohttps_parser_in_python():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            __file__,
        ],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "1 skipped" in done.stdout


@pytest.mark.skipif(not IN_PYTHON, reason="only in the child")
def test_the_child_has_the_other_parser():
    from aiohttp import http_parser

    assert http_parser.HttpRequestParser is http_parser.HttpRequestParserPy
