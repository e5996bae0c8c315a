"""Bodies that no honest client sends, by the thousand: each is answered, or refused in our shape."""

from __future__ import annotations

import json
import logging
import random
from contextlib import asynccontextmanager

import pytest

from enginery import EngineManager, Settings
from enginery.gateway import Gateway
from support.byte_engine import Line, post
from support.replies import assert_error_shape

HELLO = [{"role": "user", "content": "héllo \U0001f600"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}
VALID = [
    ("/v1/chat/completions", {"model": "m", "messages": HELLO, "max_tokens": 3}),
    ("/v1/chat/completions", {"model": "m", "messages": HELLO, "stream": True, "max_tokens": 2}),
    ("/v1/chat/completions", {"model": "m", "messages": HELLO, "tools": [TOOL], "max_tokens": 2}),
    ("/v1/completions", {"model": "m", "prompt": "once", "max_tokens": 3, "n": 2, "logprobs": 1}),
    ("/v1/completions", {"model": "m", "prompt": ["a", "b"], "stream": True, "max_tokens": 2}),
    ("/v1/embeddings", {"model": "m", "input": ["a", "b"], "dimensions": 4}),
    ("/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 16}),
    ("/v1/responses", {"model": "m", "input": HELLO, "stream": True, "max_output_tokens": 16}),
    ("/v1/messages", {"model": "m", "max_tokens": 3, "messages": HELLO, "system": "s"}),
    ("/v1/messages", {"model": "m", "max_tokens": 2, "messages": HELLO, "stream": True}),
]
ODD = [
    *(None, True, False, 0, -1, 1.5, "", "x", [], {}, [[]], [{}], {"a": None}, ["x", 1]),
    *(10**18, -(10**30), 1e308, "\0", "é" * 50, "\u2028", "m", [None] * 5, {"type": "text"}),
    *({"role": "user"}, [{"role": 1, "content": 2}], [{"role": "user", "content": [{}]}]),
    [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}],
]
RAW = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 5000, b"0" * 20, b"1.", b".5"),
    *(b"\\u0000", b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\x"', b'"\xff"', b'"\xc0\xaf"', b"'a'"),
    *(b"tru", b"nul", b"[1,]", b"{,}", b'{"a":}', b"[" * 200, b"[" * 200 + b"]" * 200),
    *(b'{"a":' * 150 + b"1" + b"}" * 150, b"\xef\xbb\xbf{}", b'"\n"', b"// no", b"undefined"),
]


def values_in(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from values_in(inner, (*path, key))


def replaced(value, path, new):
    """``value`` with another one at one place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def odd_body(chance: random.Random) -> tuple[str, bytes]:
    """A valid body with one to three things wrong, and its path."""
    path, body = chance.choice(VALID)
    for _ in range(chance.choice([0, 1, 1, 2])):
        places = [place for place in values_in(body) if place]
        body = replaced(body, chance.choice(places), chance.choice(ODD))
    if chance.random() < 0.2:
        body = {
            **body,
            chance.choice(["n", "stream", "stop", "seed", "x" * 300]): chance.choice(ODD),
        }
    raw = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode()
    how = chance.randrange(9)
    at = chance.randrange(len(raw) + 1)
    if how == 0:
        raw = raw[:at]
    elif how == 1:
        raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + chance.randrange(2) :]
    elif how == 2:
        raw = raw.replace(b": ", b": " + chance.choice(RAW) + b', "_": ', chance.choice([1, 2]))
    elif how == 3:
        key = chance.choice([b"model", b"stream", b"messages", b"mod\\u0065l", b""])
        raw = raw[:-1] + b', "%b": "m"}' % key
    elif how == 4:
        raw = chance.choice([b"", b" ", b"[]", b"null", b'"m"', b"\0", *RAW])
    elif how == 5:
        raw += chance.choice([b"}", b" ", b"\n", b"\0", raw, b",{}"])
    return path, raw


@asynccontextmanager
async def gateway(*, fast: bool):
    settings = Settings(
        models={"m": {"engine": "mock", "options": {"ttft_ms": 0, "itl_ms": 0}}},
        defaults={"shutdown_timeout": 0.2},
    )
    async with (
        EngineManager(settings) as manager,
        Gateway(manager, host="127.0.0.1", port=0, fast=fast) as gateway,
    ):
        yield gateway


async def ask_all(seed: int, count: int, *, fast: bool) -> dict[int, int]:
    """Statuses and how often each came."""
    chance = random.Random(seed)
    statuses: dict[int, int] = {}
    async with gateway(fast=fast) as at, Line(at) as line:
        for _ in range(count):
            path, raw = odd_body(chance)
            got = await line.ask(post(raw, path))
            statuses[got.status] = statuses.get(got.status, 0) + 1
            assert got.status < 500, (path, raw, got)
            if got.status >= 400:
                error = assert_error_shape(got)
                assert (path == "/v1/messages") == (got.json.get("type") == "error"), error
            else:
                assert got.status == 200
                assert got.whole
                assert b"Traceback" not in got.body
                assert b"event: error" not in got.body, (path, raw, got)
        got = await line.ask(post(VALID[0][1]))
        assert got.status == 200, "it serves as before"
    return statuses


@pytest.mark.parametrize("fast", [True, False])
async def test_a_thousand_odd_bodies_are_answered_or_refused_in_our_shape(fast, caplog):
    statuses = await ask_all(1 if fast else 2, 500, fast=fast)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    assert statuses[200] > 50
    assert statuses[400] > 100, statuses


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fast", [True, False])
async def test_twenty_thousand_odd_bodies(fast, seed, caplog):
    await ask_all(100 + 2 * seed + fast, 1000, fast=fast)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
