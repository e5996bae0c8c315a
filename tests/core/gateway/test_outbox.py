"""Writes that wait for the end of the loop's turn: all of them, in their order, none for long."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.errors import EngineEvicted
from enginery.gateway.decoded import Reading
from enginery.gateway.framing import CHUNKED_END, chunk
from enginery.gateway.outbox import FEW, MOST, Outbox
from support.byte_engine import stream_of
from support.relaying import Scene, in_loop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_what_is_put_is_written_when_the_turn_is_over():
    outbox, wrote = Outbox(), []
    outbox.put(wrote.append, b"a")
    outbox.put(wrote.append, b"b")
    assert wrote == []
    await asyncio.sleep(0)
    assert wrote == [b"a", b"b"]
    outbox.put(wrote.append, b"c")
    await asyncio.sleep(0)
    assert wrote == [b"a", b"b", b"c"]


async def test_it_is_written_before_any_task_that_was_woken_by_it_goes_on():
    outbox, wrote = Outbox(), []
    done = asyncio.get_running_loop().create_future()

    async def goes_on() -> None:
        await done
        wrote.append(b"the task's")

    task = asyncio.create_task(goes_on())
    await asyncio.sleep(0)
    outbox.put(wrote.append, b"ours")
    outbox.flush()
    outbox.put(wrote.append, b"behind an early end of the turn")
    done.set_result(None)
    await task
    assert wrote == [b"ours", b"behind an early end of the turn", b"the task's"]


async def test_so_many_are_not_left_waiting():
    outbox, wrote = Outbox(), []
    for _ in range(MOST):
        assert wrote == []
        outbox.put(wrote.append, b"x")
    assert len(wrote) == MOST


async def test_where_few_are_under_way_nobody_waits():
    outbox, wrote = Outbox(), []
    outbox.crowd = crowd = list(range(FEW))
    outbox.put(wrote.append, b"one of many")
    assert wrote == []
    crowd.pop()
    outbox.put(wrote.append, b"one of few")
    assert wrote == [b"one of many", b"one of few"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["put", "flush", "turn"])), max_size=80)
)
def test_nothing_overtakes_anything_and_nothing_is_lost(steps):
    @in_loop
    async def check() -> None:
        outbox = Outbox()
        put: list[bytes] = []
        wrote: list[bytes] = []
        for number, (who, what) in enumerate(steps):
            if what == "put":
                put.append(b"%d of %d" % (number, who))
                outbox.put(wrote.append, put[-1])
            elif what == "flush":
                outbox.flush()
                assert wrote == put
            else:
                await asyncio.sleep(0)
                assert wrote == put
        await asyncio.sleep(0)
        assert wrote == put


@pytest.mark.both_loops
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_transport_that_is_gone_does_not_keep_the_others_from_theirs(end):
    loop, outbox = asyncio.get_running_loop(), Outbox()
    pairs = [socket.socketpair() for _ in range(2)]
    transports = [
        (await loop.connect_accepted_socket(asyncio.Protocol, ours))[0] for ours, _ in pairs
    ]
    getattr(transports[0], end)()
    for _ in range(5):  # until its protocol has been told
        await asyncio.sleep(0)
    for transport in transports:
        outbox.put(transport.write, b"hello")
    outbox.flush()
    for _, theirs in pairs:
        theirs.setblocking(True)
        theirs.settimeout(20)
    assert pairs[0][1].recv(10) == b""
    assert pairs[1][1].recv(10) == b"hello"
    transports[1].abort()
    for _, theirs in pairs:
        theirs.close()
    await asyncio.sleep(0)


async def test_a_reader_that_left_does_not_pause_the_engine_that_is_heard_out():
    scene = Scene(relay=Reading, cancel=False)
    scene.say(HEAD)
    scene.say(chunk(b"data: " + b"x" * 200_000 + b"\n\n"))
    scene.upstream.data_received(chunk(b"data: " + b"x" * 100_000 + b"\n\n"))  # in one turn:
    scene.relay.client_left()
    scene.pool.outbox.flush()
    assert scene.engine.reading
    scene.hang_up()
    await scene.settle()
    assert scene.outcomes


async def test_a_stream_that_ends_in_the_turn_of_its_last_chunks_ends_behind_them():
    scene = Scene()
    first, *others = [chunk(event) for event in stream_of("one", "two", "three")]
    scene.say(HEAD, first)
    for piece in (*others, CHUNKED_END):  # in one turn
        scene.upstream.data_received(piece)
    assert len(scene.done) == 1
    assert scene.wrote.endswith(b"".join([first, *others, CHUNKED_END]))


async def test_so_does_one_whose_engine_is_taken_away():
    scene = Scene()
    words = [chunk(event) for event in stream_of("one", "two", "three")]
    scene.say(HEAD, words[0])
    scene.upstream.data_received(words[1])
    scene.lease.evict(EngineEvicted("gone"))
    before, _, behind = scene.wrote.partition(words[1])
    assert before.endswith(words[0])
    assert b"event: error" in behind
    await scene.settle()
