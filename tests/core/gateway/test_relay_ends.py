"""The relay, between transports in memory: whole replies, refusals, slow clients, leaving, deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import BadEngineReply, EngineError, EngineEvicted, EngineTimeout
from enginery.gateway.relay import COLLECT_LIMIT
from enginery.gateway.sent import Deadlines
from support.byte_engine import REPLY, chunked, one_reply, stream_of
from support.relaying import Scene, error_frame, in_loop, only, pieces_of

pytestmark = pytest.mark.both_loops

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked\r\n"
UNTIL_CLOSE = HEAD % b"Connection: close\r\n"
WORDS = stream_of("one", "two")
SHORT = Deadlines(first_byte=10.0, stall=5.0, write_stall=3.0)


# -- replies that are no stream --------------------------------------------------------------------


@settings(max_examples=30)
@given(st.sampled_from(["length", "chunks", "close"]), st.lists(st.integers(0, 500), max_size=8))
def test_a_whole_reply_gets_a_length(framing, at):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: x\r\n%b\r\n"
    raw = {
        "length": one_reply(),
        "chunks": head % b"Transfer-Encoding: chunked\r\n" + chunked(REPLY[:50], REPLY[50:]),
        "close": head % b"" + REPLY,
    }[framing]

    async def body():
        scene = Scene()
        scene.say(*pieces_of(raw, at))
        if framing == "close":
            assert scene.wrote == b""
            scene.hang_up()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    got = only(scene.wrote)
    assert got.get("content-length") == str(len(REPLY))
    assert got.body == REPLY
    assert scene.pool.kept == (framing != "close")
    (reply,) = scene.done
    assert reply.usage.completion_tokens == 1


@pytest.mark.parametrize("cut_at", range(0, len(REPLY), 17))
@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
def test_a_truncated_reply_is_an_error_and_nothing_of_it_goes_out(framing, cut_at):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n"
    raw = {
        "length": one_reply()[: -len(REPLY)] + REPLY[:cut_at],
        "chunks": head % b"Transfer-Encoding: chunked\r\n"
        + chunked(REPLY[:cut_at] or b" ", end=b""),
        "close": head % b"" + REPLY[:cut_at],
    }[framing]

    async def body():
        scene = Scene()
        scene.say(raw)
        scene.hang_up()
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.wrote == b""
    assert isinstance(scene.done[0], EngineError)
    assert scene.done[0].status == 502
    assert scene.outcomes == ["engine_error"]


def test_a_reply_that_is_too_large_to_collect_is_passed_on_and_aborts_when_truncated():
    piece = b"x" * 2**20
    count = COLLECT_LIMIT // 2**20 + 2

    async def body(said):
        scene = Scene()
        scene.say(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * 2**20), *[piece] * said
        )
        if said < count:
            scene.hang_up()
        await scene.settle()
        return scene

    whole = in_loop(lambda: body(count))
    whole.assert_over()
    assert only(whole.wrote).body == piece * count
    cut = in_loop(lambda: body(count - 1))
    cut.assert_over()
    assert not only(cut.wrote).whole
    assert cut.socket.aborted


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_an_engines_refusal_keeps_its_status_and_its_connection(status):
    raw = one_reply(
        b'{"error":{"message":"no, thanks","type":"t","code":"c"}}', status=f"{status} X"
    )

    async def body():
        scene = Scene()
        scene.say(raw)
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.wrote == b""
    (error,) = scene.done
    assert (error.status, error.message, error.source) == (status, "no, thanks", "engine")
    assert scene.outcomes == ["ok" if status < 500 else "engine_error"]
    assert scene.pool.kept == 1


@pytest.mark.parametrize("committed", [False, True])
def test_a_stream_whose_head_says_that_nothing_follows_is_not_waited_for(committed):
    async def body():
        scene = Scene(committed=committed)
        scene.say(HEAD % b"Content-Length: 0\r\n")
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.outcomes == ["engine_error"]
    assert isinstance(scene.done[0].error, BadEngineReply)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_reply_that_can_have_no_body_is_no_stream_and_gets_none(status):
    async def body():
        scene = Scene()
        scene.say(CHUNKED.replace(b"200 OK", status))
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.outcomes == ["ok"]
    head, _, rest = scene.wrote.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"chunked" not in head
    assert rest == b""


def test_a_late_refusal_is_a_frame_since_the_head_is_out():
    async def body():
        scene = Scene(committed=True)
        scene.say(one_reply(b'{"error":{"message":"no, thanks"}}', status="400 X"))
        return scene

    scene = in_loop(body)
    scene.assert_over()
    payload = b"".join(read_chunks(scene.wrote))
    assert b"no, thanks" in error_frame(payload)


def test_a_late_reply_that_is_no_stream_never_lands_in_one():
    async def body():
        scene = Scene(committed=True)
        size = COLLECT_LIMIT + 2
        scene.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"x" * (size - 1))
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert b"bad_engine_reply" in error_frame(b"".join(read_chunks(scene.wrote)))


def read_chunks(raw: bytes) -> list[bytes]:
    """The payload of what follows a head that is out already."""
    got = only(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert got.whole
    return [got.body]


def test_more_than_belongs_to_a_reply_ends_the_connection():
    for raw in (
        one_reply() + b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        CHUNKED + chunked(*WORDS) + b"x",
    ):

        async def body(raw=raw):
            scene = Scene()
            scene.say(raw)
            return scene

        scene = in_loop(body)
        scene.assert_over()
        assert scene.outcomes == ["ok"]
        assert scene.pool.kept == 0
        assert scene.engine.aborted
        assert only(scene.wrote).whole


def test_interim_replies_are_passed_over_however_many():
    async def body():
        scene = Scene()
        scene.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000 + one_reply())
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert only(scene.wrote).body == REPLY


def test_another_protocol_is_refused():
    async def body():
        scene = Scene()
        scene.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert isinstance(scene.done[0], BadEngineReply)


@pytest.mark.parametrize(
    "rest", [b"", b"\r\nX: " + b"y" * 70_000, b"\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"]
)
def test_a_head_without_a_bound_is_refused(rest):
    async def body():
        scene = Scene()
        scene.say(b"HTTP/1.1 200 OK" + (rest or b" " * 70_000))
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert isinstance(scene.done[0], BadEngineReply)


# -- who reads slowly, who leaves, who is taken away -----------------------------------------------


def test_a_client_that_reads_slowly_stops_the_engine_and_starts_it_again():
    async def body():
        scene = Scene()
        scene.socket.reads_nothing = True
        scene.say(CHUNKED)
        while scene.engine.reading:
            scene.say(chunked(WORDS[0] * 100, end=b""))
        scene.socket.caught_up()
        assert scene.engine.reading
        scene.say(chunked(*WORDS))
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert only(scene.wrote).whole


def test_a_connection_is_not_kept_paused_when_the_last_bytes_were_too_many():
    async def body():
        scene = Scene()
        scene.socket.reads_nothing = True
        scene.say(one_reply(b'"' + b"x" * 300_000 + b'"'))
        assert scene.socket.full
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.pool.kept == 1
    assert scene.engine.reading


@pytest.mark.parametrize("committed", [False, True])
def test_eviction_is_told_in_the_way_that_is_left(committed):
    async def body():
        scene = Scene()
        if committed:
            scene.say(CHUNKED, chunked(*WORDS[:1], end=b""))
        scene.lease.evict(EngineEvicted("made room"))
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.outcomes == ["evicted"]
    assert scene.engine.aborted
    if committed:
        payload = only(scene.wrote).body
        assert b"engine_evicted" in error_frame(payload[len(WORDS[0]) :])
    else:
        assert isinstance(scene.done[0], EngineEvicted)
        assert scene.wrote == b""


STAGES = {
    "before the head": [],
    "within the head": [CHUNKED[:20]],
    "in the stream": [CHUNKED, chunked(*WORDS[:1], end=b"")],
    "within a chunk": [CHUNKED, chunked(*WORDS[:1], end=b"")[:10]],
    "within a large chunk": [CHUNKED, chunked(b"x" * 200_000)[:100_000]],
    "in a reply": [one_reply()[:100]],
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_leaves_ends_it_at_any_point(stage):
    async def body():
        scene = Scene()
        scene.say(*STAGES[stage])
        scene.client.leave()
        assert scene.outcomes == ["client_gone"], "at once"
        assert scene.engine.aborted
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.done == [None]


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_that_is_to_be_heard_out_is_and_the_client_gets_nothing_more(stage):
    whole = {
        "before the head": CHUNKED + chunked(*WORDS),
        "within a large chunk": CHUNKED + chunked(b"x" * 200_000, *WORDS),
        "in a reply": one_reply(),
    }.get(stage, CHUNKED + chunked(*WORDS))

    async def body():
        scene = Scene(cancel=False)
        scene.say(*STAGES[stage])
        before = scene.wrote
        scene.client.leave()
        assert not scene.outcomes
        scene.say(whole[sum(map(len, STAGES[stage])) :])
        assert scene.wrote == before
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.outcomes == ["ok"]
    assert not scene.engine.aborted


def test_a_client_that_leaves_while_the_reason_is_looked_for_is_not_told():
    async def body():
        scene = Scene()
        scene.say(CHUNKED)
        scene.hang_up()
        scene.client.leave()
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.done == [None]
    assert scene.outcomes == ["engine_error"]


# -- deadlines -------------------------------------------------------------------------------------


def test_an_engine_that_says_nothing_is_given_up():
    async def body():
        scene = Scene(deadlines=SHORT)
        seen = [scene.look(second) for second in range(1, 13)]
        assert seen[:10] == [None] * 10
        assert isinstance(next(filter(None, seen)), EngineTimeout)
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert isinstance(scene.done[0], EngineTimeout)
    assert "first byte" in scene.done[0].message
    assert scene.outcomes == ["timeout"]


def test_an_engine_that_stalls_is_given_up_and_one_that_goes_on_is_not():
    async def body():
        scene = Scene(deadlines=SHORT)
        scene.say(CHUNKED)
        for second in range(1, 40):
            if second % 4 == 0:
                scene.say(chunked(*WORDS[:1], end=b""))
            assert scene.look(second) is None
        seen = [scene.look(40 + second) for second in range(10)]
        assert isinstance(next(filter(None, seen)), EngineTimeout)
        assert scene.look(1000) is None, "it is told once"
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert b"engine_timeout" in only(scene.wrote).body
    assert scene.outcomes == ["timeout"]


@pytest.mark.parametrize(
    "comment", [b": keep-alive\n\n", b":\n\n", b": a\n\n: b\r\n\r\n", b": " + b"x" * 40 + b"\n"]
)
@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
def test_comments_alone_are_no_progress(comment, framing):
    async def body():
        scene = Scene(deadlines=SHORT)
        scene.say(framing)
        told = []
        for second in range(1, 20):
            scene.say(chunked(comment, end=b"") if framing is CHUNKED else comment)
            told.append(scene.look(second))
        assert any(isinstance(error, EngineTimeout) for error in told)

    in_loop(body)


@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE])
def test_a_comment_behind_each_token_does_not_hide_it(framing):
    async def body():
        scene = Scene(deadlines=SHORT)
        scene.say(framing)
        for second in range(1, 30):
            for said in (WORDS[0], b": ping\n\n"):
                scene.say(chunked(said, end=b"") if framing is CHUNKED else said)
            assert scene.look(second) is None

    in_loop(body)


def test_a_client_that_does_not_read_is_given_up_but_not_the_engine():
    async def body():
        scene = Scene(deadlines=SHORT)
        scene.socket.reads_nothing = True
        scene.say(CHUNKED)
        while scene.engine.reading:
            scene.say(chunked(WORDS[0] * 100, end=b""))
        for second in range(1, 10):
            scene.socket.unread -= 1  # it reads a little
            assert scene.look(second) is None
        assert not scene.socket.aborted
        for second in range(10, 20):
            assert scene.look(second) is None
        assert scene.socket.aborted
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.outcomes == ["client_gone"]
