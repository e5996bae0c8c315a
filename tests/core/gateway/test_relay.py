"""The relay, between transports in memory: the same bytes, whole chunks, and one end of each kind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import EngineCrashed
from enginery.gateway.framing import HOLD_LIMIT
from enginery.gateway.sent import Reply
from support.byte_engine import chunked, stream_of
from support.relaying import Scene, error_frame, in_loop, only, pieces_of
from support.replies import read_replies

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked\r\n"
UNTIL_CLOSE = HEAD % b"Connection: close\r\n"
WORDS = stream_of("one", "two")
PAYLOAD = b"".join(WORDS)


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
