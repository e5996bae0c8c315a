"""The relay, between transports in memory: the same bytes, whole chunks, and one end of each kind."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import BadEngineReply, EngineCrashed, EngineError, EngineEvicted, EngineTimeout
from enginery.gateway.framing import HOLD_LIMIT
from enginery.gateway.relay import COLLECT_LIMIT, Deadlines, Reply
from support.byte_engine import REPLY, chunked, one_reply, stream_of
from support.relaying import Scene
from support.replies import Got, read_replies

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked\r\n"
UNTIL_CLOSE = HEAD % b"Connection: close\r\n"
WORDS = stream_of("one", "two")
PAYLOAD = b"".join(WORDS)
SHORT = Deadlines(first_byte=10.0, stall=5.0, write_stall=3.0)


def in_loop(body):
    """Run a coroutine function; hypothesis and parametrized cases share no loop."""
    with asyncio.Runner() as runner:
        return runner.run(body())


def only(raw: bytes) -> Got:
    (got,) = read_replies(raw)
    return got


def error_frame(payload: bytes) -> bytes:
    """What follows the engine's own bytes when they broke off, without its message."""
    assert payload.startswith(b"event: error\ndata: {"), payload
    assert payload.endswith(b"\n\ndata: [DONE]\n\n"), payload
    return payload


def pieces_of(raw: bytes, at: list[int]) -> list[bytes]:
    at = sorted({min(place, len(raw)) for place in at} - {0})
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True) if a < b]


# -- the same bytes --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    words=st.lists(st.text(max_size=20), max_size=5),
    joined=st.integers(1, 3),
    at=st.lists(st.integers(0, 900), max_size=10),
    end=st.sampled_from([b"0\r\n\r\n", b"0;x\r\nT: 1\r\n\r\n"]),
)
def test_any_partition_of_a_stream_passes_byte_identical(words, joined, at, end):
    events = stream_of(*words)
    chunks = [b"".join(events[i : i + joined]) for i in range(0, len(events), joined)]

    async def body():
        scene = Scene()
        scene.say(*pieces_of(CHUNKED + chunked(*chunks, end=end), at))
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    got = only(scene.wrote)
    assert got.whole
    assert got.body == b"".join(events)
    assert scene.wrote.endswith(chunked(*chunks)), "the engine's own chunks, not others"
    assert got.get("content-type") == "text/event-stream"
    assert scene.outcomes == ["ok"]
    (reply,) = scene.done
    assert isinstance(reply, Reply)
    assert reply.keep_alive
    assert reply.error is None


@settings(max_examples=40)
@given(st.lists(st.integers(0, 900), max_size=10), st.booleans(), st.booleans())
def test_other_framings_give_the_same_payload(at, until_close, old_client):
    raw = UNTIL_CLOSE + PAYLOAD if until_close else CHUNKED + chunked(*WORDS)

    async def body():
        scene = Scene(chunked=not old_client)
        scene.say(*pieces_of(raw, at))
        if until_close:
            scene.hang_up()
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    got = only(scene.wrote)
    assert got.body == PAYLOAD
    assert got.framed is not old_client, "HTTP/1.0 knows no chunks"
    assert (got.get("connection") == "close") is old_client
    assert scene.outcomes == ["ok"]


@pytest.mark.parametrize("cut_at", range(1, 40, 3))
def test_only_whole_chunks_go_on(cut_at):
    async def body():
        scene = Scene()
        raw = chunked(*WORDS)
        scene.say(CHUNKED)
        assert only(scene.wrote).body == b""
        for at in range(0, len(raw), cut_at):
            scene.say(raw[at : at + cut_at])
            for got in read_replies(scene.wrote):
                assert scene.wrote.endswith(b"\r\n")
                assert PAYLOAD.startswith(got.body)
                assert b"".join(WORDS[: got.body.count(b"\n\n")]) == got.body
        scene.assert_over()

    in_loop(body)


def test_a_chunk_of_200_kib_passes_through_before_it_is_whole():
    big = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 200 * 1024)

    async def body():
        scene = Scene()
        scene.say(CHUNKED, chunked(big, end=b"")[: HOLD_LIMIT * 2])
        assert len(scene.wrote) > HOLD_LIMIT
        scene.say(chunked(big, end=b"")[HOLD_LIMIT * 2 :], chunked(*WORDS))
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert only(scene.wrote).body == big + PAYLOAD
    assert scene.outcomes == ["ok"]


@pytest.mark.parametrize("cut_at", [1, 100, 65_535, 65_536, 150_000])
def test_a_whole_stream_in_one_large_chunk_is_complete(cut_at):
    big = PAYLOAD.replace(b"one", b"y" * 200_000, 1)

    async def body():
        scene = Scene()
        raw = chunked(big)
        scene.say(CHUNKED, *(raw[i : i + cut_at] for i in range(0, len(raw), cut_at)))
        return scene

    if cut_at == 1:  # byte by byte around the end only
        big = PAYLOAD.replace(b"one", b"y" * 70_000, 1)
    scene = in_loop(body)
    scene.assert_over()
    assert only(scene.wrote).body == big
    assert scene.outcomes == ["ok"]


# -- broken off ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize("cut_at", range(len(chunked(*WORDS))))
def test_dying_between_or_within_small_chunks_is_an_error_frame(cut_at, error):
    async def body():
        scene = Scene()
        scene.say(CHUNKED, *pieces_of(chunked(*WORDS)[:cut_at], [cut_at // 2]))
        scene.hang_up(error)
        assert scene.outcomes == ["engine_error"], "the lease does not wait for the reason"
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    got = only(scene.wrote)
    assert got.whole
    assert not scene.socket.aborted
    whole = next(
        b"".join(WORDS[:n]) for n in (4, 3, 2, 1, 0) if got.body.startswith(b"".join(WORDS[:n]))
    )
    assert b"SIGKILL" in error_frame(got.body[len(whole) :])
    (reply,) = scene.done
    assert isinstance(reply, Reply)
    assert isinstance(reply.error, EngineCrashed)
    assert reply.status == 200


def test_dying_inside_a_chunk_that_went_out_in_part_aborts():
    async def body():
        scene = Scene()
        scene.say(CHUNKED, chunked(b"x" * 200_000)[:100_000])
        before = scene.wrote
        scene.hang_up()
        await scene.settle()
        return scene, before

    scene, before = in_loop(body)
    scene.assert_over()
    assert scene.socket.aborted
    assert scene.wrote == before, "half a chunk is followed by nothing"


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-1\r\nab\r\n", b"1\r\nabc\r\n"])
def test_broken_framing_is_the_engines_fault(bad):
    async def body():
        scene = Scene()
        scene.say(CHUNKED, chunked(*WORDS[:1], end=b""), bad, b"more")
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    got = only(scene.wrote)
    assert got.body.startswith(WORDS[0])
    assert b"bad_engine_reply" in error_frame(got.body[len(WORDS[0]) :])
    assert scene.engine.aborted
    assert scene.outcomes == ["engine_error"]


@pytest.mark.parametrize("missing", [1, 2, 3])
@pytest.mark.parametrize("old_client", [False, True])
def test_a_stream_that_ends_too_early_is_no_success(missing, old_client):
    said = WORDS[:-missing]

    async def body():
        scene = Scene(chunked=not old_client)
        scene.say(CHUNKED, chunked(*said))
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    payload = only(scene.wrote).body
    assert payload.startswith(b"".join(said))
    assert b"bad_engine_reply" in error_frame(payload[len(b"".join(said)) :])
    assert scene.outcomes == ["engine_error"]
    assert scene.pool.kept == 0


def test_an_event_that_is_open_is_closed_before_the_error():
    async def body():
        scene = Scene()
        scene.say(CHUNKED, chunked(b'data: {"choi', end=b""))
        scene.hang_up()
        await scene.settle()
        return scene

    payload = only(in_loop(body).wrote).body
    assert payload.startswith(b'data: {"choi\n\nevent: error\n')


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Type: te"])
def test_dying_before_the_head_is_told_to_the_caller(head):
    async def body():
        scene = Scene()
        scene.say(head)
        scene.hang_up()
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert scene.wrote == b""
    assert isinstance(scene.done[0], EngineCrashed)


def test_a_reason_that_cannot_be_found_is_no_reason_to_keep_silent():
    async def body():
        async def why_broken(cause):
            raise RuntimeError("a defect")

        scene = Scene()
        scene.why_broken = why_broken
        scene.hang_up()
        await scene.settle()
        return scene

    scene = in_loop(body)
    scene.assert_over()
    assert isinstance(scene.done[0], EngineCrashed)


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
