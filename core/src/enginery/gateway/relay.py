"""From one engine's connection to one client's: bytes on their way, and what happens when something dies.

Knows: three ways for a body. *Verbatim*: an event stream in chunks goes on as it came, whole chunks
only, so that a chunk of ours can follow at any time. *Reframed*: the payload in chunks of ours, for other
framings and for what is too large to collect. *Collected*: a reply that is no stream is sent when it is
whole, so that a truncated one is a 502. Does not know: how the lease and the connection were got, or
transforms (`decoded`).

No timer and no task runs for a stream: `look` is called once a second for all, and only the reason for a
broken connection is waited for. Whatever happens, `Relay` ends once: the connection goes first, then the lease,
then the client is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from enginery.api.endings import (
    TAIL_BYTES,
    Api,
    Usage,
    body_is_complete,
    broken_stream_end,
    stream_ending,
    usage_of,
)
from enginery.engine.lease import Lease
from enginery.engine.seam import Outcome
from enginery.errors import BadEngineReply, EngineCrashed, EngineryError, EngineTimeout
from enginery.gateway.body_ends import SHORT_TAIL, BodyEnds
from enginery.gateway.error_replies import from_engine
from enginery.gateway.framing import (
    CHUNKED_END,
    Body,
    ChunkWalk,
    ResponseHead,
    body_reader,
    chunk,
)
from enginery.gateway.sent import Client, Progress, Reply, Sent
from enginery.gateway.upstreams import REST, Upstream

__all__ = ["Relay"]

COLLECT_LIMIT = 8 * 2**20
"""A reply that is larger is passed on before it is whole."""

FLOWING = 5.0
"""Seconds since the last bytes for which an engine is taken to be at work on a reply."""


_NO_CHUNKS = ChunkWalk()
_NO_BODY = BodyEnds()
"""Of a reply that is no stream, or has not come: nothing is added to them."""

_FIRST_WORDS: dict[Api, bytes] = {"responses": b".delta", "messages": b"_delta"}
"""What a stream's first token is known by. These APIs say first that they begin; others, with the first event."""


class Relay:
    """One request's response; an `Exchange` of the upstream's.

    Args:
        client: where it goes.
        lease: ended when the upstream connection is.
        upstream: where it comes from; the request is not sent yet.
        sent: the request.
        on_done: called once, with this relay and the `Reply`, or the error where the client has got nothing yet,
            or None where the client left before the end.
        relays: holds this one for as long as it is under way; `look` is called for each.
        on_first: called with the lease, and the seconds since the sending, before a stream's first token goes on.
        now: seconds, the clock of `look`. Not the loop's: asking for the running loop costs a system call.
    """

    __slots__ = (
        *("_answering", "_body", "_ends", "_explaining", "_first_byte_at", "_head", "_looked_at"),
        *("_looked_reads", "_now", "_on_done", "_on_first", "_outbox", "_paused", "_pieces"),
        *("_reads", "_relays", "_size", "_transport", "_unread", "_upstream", "_walk", "_write"),
        *("began", "client", "lease", "on_body", "sent"),
    )

    on_body: Callable[[bytes], None]
    _pieces: list[bytes]
    _size: int
    _unread: tuple[int, float]

    def __init__(
        self,
        client: Client,
        lease: Lease,
        upstream: Upstream,
        sent: Sent,
        on_done: Callable[[Relay, Reply | EngineryError | None], None],
        relays: set[Relay],
        on_first: Callable[[Lease, float], None],
        now: Callable[[], float] = monotonic,
    ) -> None:
        transport = client.transport
        assert transport is not None
        self.client = client
        self.lease = lease
        self.sent = sent
        self.began = self._looked_at = now()
        self._now = now
        self._relays = relays
        self._transport: asyncio.Transport = transport
        self._write: Callable[[bytes], object] = transport.write
        self._upstream = upstream
        self._outbox = upstream.outbox
        self._on_done: Callable[[Relay, Reply | EngineryError | None], None] | None = on_done
        self._on_first = on_first
        self._answering = sent.committed
        """The client has a head, so that only the body can tell an error."""
        self._head: ResponseHead | None = None
        self._body: Body | None = None
        self._walk = _NO_CHUNKS
        self._ends = _NO_BODY
        self._reads = 0
        self._looked_reads = -1
        self._first_byte_at: float | None = None
        self._explaining: asyncio.Task[None] | None = None
        self._paused = False
        client.relay = self
        relays.add(self)
        lease.on_evict(self._evicted)

    # -- the upstream's calls ------------------------------------------------------------------------

    def on_head(self, head: ResponseHead, rest: bytes) -> None:
        """See `Exchange`."""
        self._head = head
        self._reads += 1
        if not head.streams:
            if rest and len(rest) == head.framing.length:  # all of it, as with most short replies
                self._end_collected(head, rest, surplus=False)
                return
            body = self._body = body_reader(head.framing)
            self._pieces = []
            self._size = 0
            self.on_body = self._collected
            if rest or body.ended:
                self._collected(rest)
            return
        self._send_head()
        if head.framing.chunked and self.sent.chunked:
            self._walk = ChunkWalk()
            self._ends = BodyEnds(in_chunks=True)
        else:
            self._body = body_reader(head.framing)
            self._ends = BodyEnds()
        self.on_body = self._opening
        if rest or head.framing.length == 0:
            self._opening(rest)

    def on_lost(self, error: Exception | None) -> None:
        """See `Exchange`."""
        if error is None and self._body is not None and self._body.close():
            self.on_body(b"")  # the connection's end is the body's
            return
        if isinstance(error, BadEngineReply):
            self._fail(error, Outcome.ENGINE_ERROR)
            return
        self.lease.release(Outcome.ENGINE_ERROR)
        # the connection breaks a moment before anybody has seen the process end
        cause = ConnectionResetError("it closed the connection") if error is None else error
        self._explaining = asyncio.get_running_loop().create_task(
            self._explain(cause), name="why it broke"
        )

    # -- the three ways of a body ----------------------------------------------------------------------

    def _opening(self, data: bytes) -> None:
        """A stream until its first token: what comes later has nothing to look for."""
        passes = self._walked if self._body is None else self._reframed
        if _FIRST_WORDS.get(self.sent.api, b"data:") in data:
            self.on_body = passes
            self._first_byte_at = now = self._now()
            self._on_first(self.lease, now - self.began)
        passes(data)
        self._outbox.flush()  # it has been waited for

    def _walked(self, data: bytes) -> None:
        self._reads += 1
        walk = self._walk
        ready = walk.feed(data)
        if ready:
            self._ends.add(ready)
            if not walk.ended:
                self._outbox.put(self._write, ready)
                return
        if walk.ended:
            self._end_stream(ready)

    def _reframed(self, data: bytes) -> None:
        self._reads += 1
        assert self._body is not None
        payload = self._body.feed(data)
        if payload:
            self._ends.add(payload)
        framed = chunk(payload) if self.sent.chunked else payload
        if self._body.ended:
            self._end_stream(framed)
        elif framed:
            self._outbox.put(self._write, framed)

    def _collected(self, data: bytes) -> None:
        self._reads += 1
        body, head = self._body, self._head
        assert body is not None
        assert head is not None
        if data:
            piece = body.feed(data)
            self._pieces.append(piece)
            self._size += len(piece)
        if body.ended:
            self._end_collected(head, b"".join(self._pieces), surplus=body.surplus)
        elif self._size > COLLECT_LIMIT:
            if self._answering:
                raise BadEngineReply(f"{self.lease.variant.id} answered with what is no stream")
            self._send_head()
            self.on_body = self._reframed
            self._ends = BodyEnds()
            whole, self._pieces = b"".join(self._pieces), []
            self._ends.add(whole[:TAIL_BYTES])
            self._ends.add(whole[-TAIL_BYTES:])
            self._write(chunk(whole) if self.sent.chunked else whole)

    # -- ends ----------------------------------------------------------------------------------------

    def _end_stream(self, last: bytes) -> None:
        self._outbox.flush()
        streams = self._head is not None and self._head.streams
        tail = self._ends.last(SHORT_TAIL)
        broken = streams and stream_ending(self.sent.api, tail) == "truncated"
        if broken:
            tail = self._ends.last()
            broken = stream_ending(self.sent.api, tail) == "truncated"
        if broken:
            self._write(last)
            error = BadEngineReply(
                f"{self.lease.variant.id} ended its stream before the reply was complete"
            )
            self._fail(error, Outcome.ENGINE_ERROR)
            return
        if self.sent.chunked:
            last += CHUNKED_END
        if last:
            self._write(last)
        reusable = not (self._walk.surplus if self._body is None else self._body.surplus)
        usage = usage_of(tail, self._ends.first())
        self._finish(Outcome.OK, usage, reusable=reusable, rest=REST if streams else 0.0)

    def _end_collected(self, head: ResponseHead, body: bytes, *, surplus: bool) -> None:
        refused = head.status >= 400
        unmarked = head.framing.length is None and not head.framing.chunked
        if unmarked and not refused and not body_is_complete(body):
            self._fail(
                BadEngineReply(f"{self.lease.variant.id} broke off in the middle of its reply"),
                Outcome.ENGINE_ERROR,
            )
            return
        reusable = not surplus
        if refused:
            error = from_engine(head, body, self.lease.hooks, self.lease.variant.id)
            outcome = Outcome.OK if head.status < 500 else Outcome.ENGINE_ERROR
            self._fail(error, outcome, reusable=reusable)
            return
        if self._answering:
            whole = BadEngineReply(
                f"{self.lease.variant.id} sent no stream, which it was asked for"
            )
            self._fail(whole, Outcome.OK, reusable=reusable)
            return
        self._send_whole(head, body)
        usage = usage_of(body[-TAIL_BYTES:], body[:TAIL_BYTES])
        self._finish(Outcome.OK, usage, reusable=reusable)

    def _close(self, outcome: Outcome, *, reusable: bool = False, rest: float = 0.0) -> None:
        """The connection first, then the lease; the client is told by the caller."""
        if self._paused:  # a reply's last bytes may have been too many for the client
            self._paused = False
            self._upstream.resume()
        self._upstream.detach(reusable=reusable, rest=rest)
        self.lease.release(outcome)
        self._relays.discard(self)
        self.on_body = _nowhere  # a bound method of its own would keep it for the collector
        client = self.client
        if client.relay is self:
            client.relay = None

    def _finish(
        self,
        outcome: Outcome,
        usage: Usage | None,
        *,
        reusable: bool,
        rest: float = 0.0,
        error: EngineryError | None = None,
    ) -> None:
        self._close(outcome, reusable=reusable, rest=rest)
        done, self._on_done = self._on_done, None
        if done is None:
            return
        now, first = self._now(), self._first_byte_at
        done(
            self,
            Reply(
                200 if self._head is None or self.sent.committed else self._head.status,
                outcome,
                self.sent.keep_alive and self.sent.chunked and not self._transport.is_closing(),
                None if first is None else first - self.began,
                now - self.began,
                usage,
                error,
            ),
        )

    def _fail(self, error: EngineryError, outcome: Outcome, *, reusable: bool = False) -> None:
        """End it with an error: as a reply while the client has none, else in its stream."""
        if self._answering:
            self._outbox.flush()
            self._send_error(error)
            self._finish(outcome, None, reusable=reusable, error=error)
            return
        self._close(outcome, reusable=reusable)
        done, self._on_done = self._on_done, None
        if done is not None:
            done(self, error)

    async def _explain(self, cause: Exception) -> None:
        try:
            why = await self.lease.client.why_broken(cause)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client must be told
            why = EngineCrashed(f"{self.lease.variant.id} broke off: {error}")
        self._explaining = None
        if self._on_done is not None:
            self._fail(why, Outcome.ENGINE_ERROR)

    # -- what others do to it ------------------------------------------------------------------------

    def _evicted(self, error: EngineryError) -> None:
        if self._on_done is not None and self._explaining is None:
            self._fail(error, Outcome.EVICTED)

    def client_left(self) -> None:
        """The client's connection is gone: the engine is told so, by closing its own, or heard out."""
        if self._on_done is None:
            return
        if self._explaining is not None:
            self._explaining.cancel()
            self._explaining = None
        elif not self.sent.cancel:
            self._outbox.flush()  # a pipe may pause us for the last time
            self._write = _nowhere
            self.resume()
            return
        done, self._on_done = self._on_done, None
        self._close(Outcome.CLIENT_GONE)
        done(self, None)

    def pause(self) -> None:
        """The client reads more slowly than the engine writes."""
        if not self._paused:
            self._paused = True
            self._unread = (self._transport.get_write_buffer_size(), self._now())
            self._upstream.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._paused:
            self._paused = False
            self._looked_reads, self._looked_at = -1, self._now()
            self._upstream.resume()

    def flows(self, now: float) -> bool:
        """Whether its engine has sent something of a reply within the last seconds."""
        return self._head is not None and now - self._looked_at <= FLOWING

    def progress(self, now: float) -> Progress:
        """How far it has come, for whoever watches it."""
        first = self._first_byte_at
        return Progress(
            now - self.began,
            None if first is None else first - self.began,
            self._ends.size,
            self._ends.event_size(),
        )

    def look(self, now: float) -> EngineTimeout | None:
        """Once a second: end it when a deadline has passed; the error where the engine is at fault."""
        if self._on_done is None or self._explaining is not None:
            return None
        deadlines = self.sent.deadlines
        if self._paused:
            waiting, since = self._unread
            left = self._transport.get_write_buffer_size()
            if left != waiting:
                self._unread = (left, now)
            elif now - since > deadlines.write_stall:
                self._transport.abort()  # `client_left` follows
            return None
        before, self._looked_reads = self._looked_reads, self._reads
        if before != self._reads and not self._ends.only_comments(self._reads - before):
            self._looked_at = now
            return None
        limit = deadlines.first_byte if self._head is None else deadlines.stall
        if now - self._looked_at <= limit:
            return None
        what = "a first byte" if self._head is None else "anything more"
        error = EngineTimeout(f"{self.lease.variant.id} did not send {what} in {limit:g} s")
        self._fail(error, Outcome.TIMEOUT)
        return error

    # -- what the client gets --------------------------------------------------------------------------

    def _send_head(self) -> None:
        """Before the first byte of a body that is passed on as it comes."""
        if self._answering:
            return
        assert self._head is not None
        self._answering = True
        framing = b"Transfer-Encoding: chunked\r\n" if self.sent.chunked else b""
        self._write(self._head_bytes(self._head, framing))

    def _send_whole(self, head: ResponseHead, body: bytes) -> None:
        """A reply that was collected."""
        framing = b"Content-Length: %d\r\n" % len(body)
        self._outbox.put(self._write, self._head_bytes(head, framing) + body)

    def _send_error(self, error: EngineryError) -> None:
        """Behind what was passed on already."""
        streams = self._head is None or self.sent.committed or self._head.streams
        if self._walk.inside or not streams:
            self._transport.abort()  # nothing that is put behind half a chunk would be read as meant
        else:
            frame = broken_stream_end(self.sent.api, error, self._ends.last())
            self._write(chunk(frame) + CHUNKED_END if self.sent.chunked else frame)

    def _head_bytes(self, head: ResponseHead, framing: bytes) -> bytes:
        close = b"" if self.sent.keep_alive and self.sent.chunked else b"Connection: close\r\n"
        return b"HTTP/1.1 %d %b\r\n%b%b%b%b\r\n" % (
            head.status,
            head.reason,
            head.relayed,
            self.sent.extra,
            framing,
            close,
        )


def _nowhere(data: bytes) -> None:
    """Where a reply goes whose client left, while its engine is heard out."""
