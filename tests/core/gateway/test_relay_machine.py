"""Whatever order things happen in: a relay ends once, everywhere, and says nothing after its end."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enginery.errors import EngineEvicted, EngineryError
from enginery.gateway.decoded import Reading
from enginery.gateway.relay import Relay
from enginery.gateway.sent import Deadlines
from support.byte_engine import REPLY, chunked, one_reply, stream_of
from support.relaying import Scene
from support.replies import read_replies

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n"
LONG = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 70_000)
EVENTS = stream_of("one", "two", "three")
CHUNKS = b"Transfer-Encoding: chunked\r\n"

SCRIPTS = {
    "stream": HEAD % CHUNKS + chunked(*EVENTS),
    "stream with a long chunk": HEAD % CHUNKS + chunked(EVENTS[0], LONG, *EVENTS[1:]),
    "stream until close": HEAD % b"" + b"".join(EVENTS),
    "stream without an end": HEAD % CHUNKS + chunked(*EVENTS[:2]),
    "broken chunks": HEAD % CHUNKS + chunked(EVENTS[0], end=b"zz\r\n"),
    "reply": one_reply(),
    "long reply": one_reply(b'"' + b"y" * 200_000 + b'"'),
    "reply in chunks": PLAIN % CHUNKS + chunked(REPLY),
    "reply until close": PLAIN % b"" + REPLY,
    "refusal": one_reply(b'{"error":{"message":"no"}}', status="400 X"),
    "failure": one_reply(b"", status="500 X"),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "surplus": one_reply() + b"and more",
    "no HTTP": b"+PONG\r\n\r\n",
}


class Relaying(RuleBasedStateMachine):
    """Engine bytes, engine loss, eviction, a client that pauses and leaves, deadlines: in any order."""

    kind: type[Relay] = Relay

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scene: Any = None
        self.at_end: bytes | None = None
        self.seconds = 0.0

    def do(self, act: Any) -> None:
        async def run() -> None:
            act()
            await asyncio.sleep(0)

        self.runner.run(run())

    @initialize(
        script=st.sampled_from(sorted(SCRIPTS)),
        cancel=st.booleans(),
        chunks=st.booleans(),
        committed=st.booleans(),
    )
    def begin(self, script: str, cancel: bool, chunks: bool, committed: bool) -> None:
        self.left = SCRIPTS[script]
        self.committed = committed

        def make() -> None:
            self.scene = Scene(
                relay=self.kind,
                cancel=cancel,
                chunked=chunks,
                committed=committed,
                deadlines=Deadlines(20.0, 20.0, 20.0),
            )

        self.do(make)

    @property
    def lives(self) -> bool:
        return self.scene.upstream.transport is not None and not self.scene.engine.is_closing()

    @precondition(lambda self: self.lives and self.scene.engine.reading and self.left)
    @rule(size=st.one_of(st.integers(1, 200), st.just(66_000), st.just(10**6)))
    def engine_sends(self, size: int) -> None:
        piece, self.left = self.left[:size], self.left[size:]
        self.do(lambda: self.scene.say(piece))

    @precondition(lambda self: self.lives)
    @rule(error=st.sampled_from([None, ConnectionResetError("reset")]))
    def engine_goes(self, error: Exception | None) -> None:
        self.do(lambda: self.scene.hang_up(error))

    @precondition(lambda self: self.scene.lease.error is None)
    @rule()
    def engine_is_taken_away(self) -> None:
        def evict() -> None:
            if not self.scene.lease.released:
                self.scene.lease.evict(EngineEvicted("made room"))

        self.do(evict)

    @precondition(lambda self: self.scene.client.transport is not None)
    @rule()
    def client_leaves(self) -> None:
        self.do(self.scene.client.leave)

    @precondition(lambda self: self.scene.client.transport is not None)
    @rule(reads=st.booleans())
    def client_reads_or_not(self, reads: bool) -> None:
        if reads:
            self.do(self.scene.socket.caught_up)
        else:
            self.scene.socket.reads_nothing = True

    @rule(seconds=st.sampled_from([1.0, 15.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds

        def look() -> None:
            if self.scene.relay in self.scene.relays:
                self.scene.look(self.seconds)

        self.do(look)

    @invariant()
    def each_end_comes_once_at_most(self) -> None:
        if self.scene is None:
            return
        assert len(self.scene.done) <= 1
        assert len(self.scene.outcomes) <= 1
        if not self.scene.done:
            return
        if self.at_end is None:
            self.at_end = self.scene.wrote
            self.assert_client_can_read()
        assert self.scene.wrote == self.at_end, "bytes after the end"
        assert self.scene.upstream.detached == 1
        assert self.scene.outcomes
        assert not self.scene.relays
        assert self.scene.engine.reading or self.scene.engine.is_closing()

    def assert_client_can_read(self) -> None:
        """Whole where it is told to be; and no more than the engine said, but for one error."""
        wrote, (result,) = self.at_end, self.scene.done
        if self.kind is not Relay or not wrote:
            return
        if self.committed:
            framing = b"Transfer-Encoding: chunked\r\n" if self.scene.sent.chunked else b""
            wrote = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + wrote
        (got,) = read_replies(wrote)
        if result is None or self.scene.socket.is_closing() or self.scene.client.transport is None:
            return
        assert got.whole
        assert got.body.count(b"event: error") <= 1

    def teardown(self) -> None:
        if self.scene is not None:
            if self.lives:
                self.do(self.scene.hang_up)
            self.runner.run(self.scene.settle())
            self.scene.assert_over()
            self.each_end_comes_once_at_most()
        self.runner.close()


class ReadingIt(Relaying):
    """The same for replies that we read ourselves."""

    kind = Reading

    @precondition(lambda self: self.scene is not None)
    @rule(pieces=st.integers(1, 3))
    def reader_reads(self, pieces: int) -> None:
        pipe = self.scene.relay._pipe

        async def read() -> None:
            left = pieces
            try:
                async for _ in pipe.pieces():
                    left -= 1
                    if not left or not (pipe._pieces or pipe._over):
                        return
            except EngineryError:
                return

        if pipe._pieces or pipe._over:
            self.runner.run(read())

    @invariant()
    def nothing_reaches_the_client(self) -> None:
        assert self.scene is None or not self.scene.wrote

    def teardown(self) -> None:
        if self.scene is not None and self.scene.relay._head_came.done():
            self.scene.relay._head_came.exception()  # whoever waits for it would have it
        super().teardown()
        if self.scene is not None and self.scene.relay._head_came.done():
            self.scene.relay._head_came.exception()


FEW = settings(max_examples=150, stateful_step_count=20, deadline=None)
Relaying.TestCase.settings = FEW
ReadingIt.TestCase.settings = FEW
TestRelaying = Relaying.TestCase
TestReadingIt = ReadingIt.TestCase
