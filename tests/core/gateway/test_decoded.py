"""Errors in a stream that is folded: the plugin may know more of them than the stream says."""

from __future__ import annotations

import json

import pytest

from enginery import BadEngineReply, ContextLengthExceeded, EngineBusy, EngineError
from enginery.gateway.decoded import folded_reply
from support.byte_engine import stream_of

OVERFLOW = {"error": {"code": 400, "message": "it is full", "type": "exceed_context_size_error"}}


class Same:
    """A transform that changes nothing."""

    def chunk(self, body):
        return [body]

    def end(self):
        return []


async def pieces_of(*pieces: bytes):
    for piece in pieces:
        yield piece


def broken_off(error) -> list[bytes]:
    return [*stream_of("a")[:1], b"data: %b\n\n" % json.dumps(error).encode()]


@pytest.mark.parametrize("transform", [None, Same()], ids=["plain", "transformed"])
async def test_the_plugin_is_asked_what_an_error_in_the_stream_means(transform):
    seen = []

    def parse_error(status, body):
        seen.append((status, json.loads(body)))
        return ContextLengthExceeded("too long", prompt_tokens=9, context_length=8)

    with pytest.raises(ContextLengthExceeded) as caught:
        await folded_reply(pieces_of(*broken_off(OVERFLOW)), "chat", transform, parse_error)
    assert caught.value.source == "engine"
    assert seen == [(400, OVERFLOW)]


async def test_what_it_does_not_know_stays_the_engine_s_own_error():
    said = broken_off(OVERFLOW)
    with pytest.raises(EngineError, match="it is full") as caught:
        await folded_reply(pieces_of(*said), "chat", None, lambda *_: None)
    assert (caught.value.status, caught.value.source) == (400, "engine")


async def test_a_stream_that_breaks_off_is_no_error_of_the_engine_s_for_it():
    def parse_error(*_):
        raise AssertionError("nobody said anything")

    with pytest.raises(BadEngineReply) as caught:
        await folded_reply(pieces_of(*stream_of("a")[:1]), "chat", None, parse_error)
    assert caught.value.source == "gateway"


async def test_an_error_that_the_pieces_raise_passes_as_it_is():
    async def cut():
        yield stream_of("a")[0]
        raise EngineBusy("taken away")

    def parse_error(*_):
        raise AssertionError("it is not the engine's")

    with pytest.raises(EngineBusy) as caught:
        await folded_reply(cut(), "chat", None, parse_error)
    assert caught.value.source == "gateway"
