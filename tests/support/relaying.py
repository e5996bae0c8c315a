"""A relay between two transports that exist only in memory.

The `Upstream` is the real one: a test speaks as the engine's socket does, so the order of calls is as in
life. Its pool only counts.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from enginery.engine.lease import Lease
from enginery.errors import EngineCrashed, EngineryError
from enginery.gateway.outbox import Outbox
from enginery.gateway.relay import Relay
from enginery.gateway.sent import Reply, Sent
from enginery.gateway.upstreams import Upstream
from enginery.values import Endpoint, Variant
from support.replies import Got, read_replies

__all__ = [
    "HIGH_WATER",
    "MemoryClient",
    "MemoryTransport",
    "Scene",
    "error_frame",
    "in_loop",
    "only",
    "pieces_of",
]

HIGH_WATER = 64 * 1024


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; tells its protocol of a full buffer as asyncio does."""

    def __init__(self, protocol: Any = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.wrote = bytearray()
        self.unread = 0
        self.reads_nothing = False
        self.full = False
        self.aborted = False
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes)
        if self.is_closing():
            return
        self.wrote += data
        if self.reads_nothing:
            self.unread += len(data)
            if self.unread > HIGH_WATER and not self.full:
                self.full = True
                self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def caught_up(self) -> None:
        self.reads_nothing, self.unread = False, 0
        if self.full:
            self.full = False
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class MemoryClient:
    """A client's connection: what a relay needs, and what asyncio would call."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self.transport: MemoryTransport | None = MemoryTransport(self)

    def pause_writing(self) -> None:
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        if self.relay is not None:
            self.relay.resume()

    def leave(self) -> None:
        """As `connection_lost`."""
        self.transport = None
        relay, self.relay = self.relay, None
        if relay is not None:
            relay.client_left()


class CountingPool:
    """What an `Upstream` tells its pool."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.keeps_open: bool | None = None
        self.kept = 0

    def made(self, upstream: Upstream) -> None: ...

    def forget(self, upstream: Upstream) -> None: ...

    def keep(self, upstream: Upstream, *_: Any) -> None:
        self.kept += 1


class CountingUpstream(Upstream):
    """An `Upstream` that is detached once."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self.detached = 0

    def detach(self, **how: Any) -> None:
        self.detached += 1
        assert self.detached == 1, "detached twice"
        super().detach(**how)


class Hooks:
    """A plugin that has nothing to say."""

    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        return None


class Scene:
    """One request on its way, with everything around it in memory; made inside a running loop.

    Attributes:
        done: every result that was told.
        outcomes: every end of the lease.
        first: seconds to the first token, each time that it was told.
    """

    def __init__(self, *, relay: Any = Relay, api: Any = "chat", **sent: Any) -> None:
        self.done: list[Reply | EngineryError | None] = []
        self.outcomes: list[str] = []
        self.first: list[float] = []
        self.why_broken: Any = self._why_broken
        variant = Variant("m", engine_type="openai")
        instance: Any = SimpleNamespace(
            endpoint=Endpoint("127.0.0.1", 1), variant=variant, hooks=Hooks()
        )
        client: Any = SimpleNamespace(why_broken=self._explain)
        self.lease = Lease(
            1,
            (1, "m/default", 1),
            instance,
            lambda _: client,
            lambda _, outcome: self.outcomes.append(str(outcome)),
        )
        self.pool = CountingPool()
        self.upstream = CountingUpstream(self.pool)
        self.engine = MemoryTransport(self.upstream)
        self.upstream.connection_made(self.engine)
        self.client = MemoryClient()
        assert self.client.transport is not None
        self.socket = self.client.transport
        self.relays: set[Relay] = set()
        self.sent = Sent(api, "req-1", **sent)
        self.relay = relay(
            self.client,
            self.lease,
            self.upstream,
            self.sent,
            lambda _, result: self.done.append(result),
            self.relays,
            lambda _, seconds: self.first.append(seconds),
            asyncio.get_running_loop().time,
        )
        self.upstream.send(self.relay, b"POST / HTTP/1.1\r\n\r\n", b"{}")

    async def _explain(self, cause: Exception) -> EngineryError:
        found: EngineryError = await self.why_broken(cause)
        return found

    async def _why_broken(self, cause: Exception) -> EngineryError:
        await asyncio.sleep(0)
        return EngineCrashed("the engine ended with SIGKILL")

    def look(self, seconds: float) -> Any:
        """What the watch does, so many seconds after the beginning, whatever the clock says."""
        return self.relay.look(self.relay.began + seconds)

    @property
    def wrote(self) -> bytes:
        """What the client got."""
        return bytes(self.socket.wrote)

    def say(self, *pieces: bytes) -> None:
        """The engine's bytes, as they come off its socket, each in a turn of the loop."""
        for piece in pieces:
            if not self.engine.is_closing():
                self.upstream.data_received(piece)
            self.pool.outbox.flush()

    def hang_up(self, error: Exception | None = None) -> None:
        """The engine's connection ends."""
        self.engine.close()
        self.upstream.connection_lost(error)

    async def settle(self) -> None:
        """Whatever is under way comes to its end; transports that were aborted say so."""
        for _ in range(5):
            await asyncio.sleep(0)
        if self.socket.is_closing() and self.client.transport is not None:
            self.client.leave()
        if self.engine.aborted and self.upstream.transport is not None:
            self.upstream.connection_lost(None)
        for _ in range(5):
            await asyncio.sleep(0)

    def assert_over(self) -> None:
        """Everything ended, and each thing once."""
        assert len(self.done) == 1, self.done
        assert len(self.outcomes) == 1, self.outcomes
        assert self.upstream.detached == 1
        assert not self.relays
        assert self.client.relay is None
        assert self.engine.reading or self.engine.is_closing(), "kept, but paused for ever"


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
