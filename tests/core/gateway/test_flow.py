"""What is told of a reply while it flows: its first token, once, and its pace; nothing while nobody listens."""

from __future__ import annotations

from typing import Any

import pytest

from enginery.gateway.flow import LOOKS, Flow
from enginery.gateway.sent import Reply
from support.byte_engine import chunked, stream_of
from support.relaying import Scene

pytestmark = pytest.mark.both_loops

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Type: %b\r\nContent-Length: 8\r\n\r\ndata: 1\n"
WORD, *_ = stream_of("one")
DONE = b"data: [DONE]\n\n"


class Listeners:
    """An `Inspection`: what was published, and whether anybody hears it."""

    def __init__(self, *, listening: bool = True) -> None:
        self.listening = listening
        self.told: list[tuple[str, str | None, str | None, dict[str, Any]]] = []

    def publish(self, type_: str, model: str | None, variant: str | None, **data: Any) -> None:
        self.told.append((type_, model, variant, data))


def flow_of(scene: Scene, *, listening: bool = True) -> tuple[Flow, Listeners]:
    listeners: Any = Listeners(listening=listening)
    return Flow(listeners, scene.relays), listeners


def looked(flow: Flow, scene: Scene, seconds: float) -> dict[str, Any]:
    """The one row of a look, so many seconds after the request was sent."""
    flow.look(scene.relay.began + seconds)
    listeners: Any = flow._inspection
    type_, model, variant, data = listeners.told[-1]
    assert (type_, model, variant) == ("request.sampled", None, None)
    (row,) = data["requests"]
    return row


def one_chunk(event: bytes) -> bytes:
    return chunked(event, end=b"")


# -- the first token --------------------------------------------------------------------------------


async def test_the_first_token_is_told_once_with_the_first_event_and_not_with_the_head():
    scene = Scene()
    scene.say(HEAD)
    assert scene.first == []
    scene.say(one_chunk(b": ping\n\n"))
    assert scene.first == [], "a comment is the server's"
    for _ in range(3):
        scene.say(one_chunk(WORD))
        assert len(scene.first) == 1
    scene.say(chunked(*stream_of("two")))
    await scene.settle()
    scene.assert_over()
    (reply,) = scene.done
    assert isinstance(reply, Reply)
    assert scene.first == [reply.first_byte_s]


async def test_a_stream_that_comes_at_once_tells_it_before_its_end():
    scene = Scene()
    order: list[str] = []
    scene.relay._on_first = lambda *_: order.append("first")
    scene.relay._on_done = lambda *_: order.append("over")
    scene.say(HEAD + chunked(*stream_of("one")))
    await scene.settle()
    assert order == ["first", "over"]


@pytest.mark.parametrize("head", [HEAD, UNTIL_CLOSE])
async def test_other_framings_tell_it_too(head):
    scene = Scene()
    scene.say(head, one_chunk(WORD) if head is HEAD else WORD)
    assert len(scene.first) == 1
    scene.client.leave()


@pytest.mark.parametrize(
    ("api", "begins", "first"),
    [
        (
            "responses",
            b'event: response.created\ndata: {"type":"response.created"}\n\n',
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n',
        ),
        (
            "messages",
            b'event: message_start\ndata: {"type":"message_start"}\n\nevent: ping\ndata: {"type":"ping"}\n\n',
            b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n',
        ),
    ],
)
async def test_that_a_reply_begins_is_not_its_first_token(api, begins, first):
    scene = Scene(api=api)
    scene.say(HEAD, one_chunk(begins))
    assert scene.first == []
    scene.say(one_chunk(first))
    assert len(scene.first) == 1
    scene.client.leave()


@pytest.mark.parametrize(
    "raw", [WHOLE, REFUSED % b"application/json", REFUSED % b"text/event-stream"]
)
async def test_a_reply_that_is_refused_or_comes_whole_has_none(raw):
    scene = Scene()
    scene.say(raw)
    await scene.settle()
    scene.assert_over()
    assert scene.first == []
    (reply,) = scene.done
    assert not isinstance(reply, Reply) or reply.first_byte_s is None


async def test_it_is_an_event_only_while_somebody_listens():
    scene = Scene()
    flow, listeners = flow_of(scene)
    flow.first_token(scene.lease, 0.25)
    ((type_, model, variant, data),) = listeners.told
    assert (type_, model, variant) == ("request.first_token", "m", "m/default")
    assert data == {"request": 1, "queue_s": 0.0, "swap_s": 0.0, "first_byte_s": 0.25}
    listeners.listening = False
    flow.first_token(scene.lease, 0.25)
    assert len(listeners.told) == 1


# -- the pace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 7], ids=["chunk by chunk", "several in a read"])
async def test_the_pace_is_that_of_the_chunks_however_they_were_read(at_once):
    scene = Scene()
    flow, _ = flow_of(scene)
    scene.say(HEAD)
    row = looked(flow, scene, 1)
    assert (row["first_byte_s"], row["chunks_per_s"], row["running_s"]) == (None, None, 1)
    scene.say(one_chunk(WORD))
    assert looked(flow, scene, 2)["chunks_per_s"] is None, "one look shows no pace"
    for second in range(3, 3 + 2 * LOOKS):
        scene.say(*[one_chunk(WORD) * at_once] * (70 // at_once))
        row = looked(flow, scene, second)
        assert row["chunks_per_s"] == pytest.approx(70)
    assert row["first_byte_s"] is not None
    assert {key: row[key] for key in ("request", "model", "instance", "queue_s", "swap_s")} == {
        "request": 1,
        "model": "m",
        "instance": "m/default",
        "queue_s": 0.0,
        "swap_s": 0.0,
    }
    scene.client.leave()


async def test_the_pace_follows_what_changes_and_a_stream_that_stands_has_none():
    scene = Scene()
    flow, _ = flow_of(scene)
    scene.say(HEAD, one_chunk(WORD))
    looked(flow, scene, 0)
    for second in range(1, LOOKS + 1):
        row = looked(flow, scene, second)
    assert row["chunks_per_s"] == 0
    for second in range(LOOKS + 1, 3 * LOOKS):
        scene.say(one_chunk(WORD) * 10)
        row = looked(flow, scene, second)
    assert row["chunks_per_s"] == pytest.approx(10)
    assert looked(flow, scene, second)["chunks_per_s"] is not None, "twice in one moment"
    scene.client.leave()


async def test_words_that_look_like_an_event_are_not_counted():
    scene = Scene()
    flow, _ = flow_of(scene)
    event, *_ = stream_of("\ndata: \ndata: x")
    scene.say(HEAD, one_chunk(event))
    looked(flow, scene, 1)
    scene.say(one_chunk(event) * 20)
    assert looked(flow, scene, 2)["chunks_per_s"] == pytest.approx(20)
    scene.client.leave()


async def test_nothing_is_measured_while_nobody_listens_or_nothing_is_under_way():
    scene = Scene()
    flow, listeners = flow_of(scene, listening=False)
    scene.say(HEAD, one_chunk(WORD))
    flow.look(scene.relay.began + 1)
    assert listeners.told == []
    assert not flow._marks
    listeners.listening = True
    looked(flow, scene, 2)
    assert list(flow._marks) == [scene.relay]
    scene.client.leave()
    await scene.settle()
    flow.look(3)
    assert len(listeners.told) == 1
    assert not flow._marks, "a reply that is over is not kept"
