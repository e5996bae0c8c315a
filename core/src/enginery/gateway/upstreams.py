"""Connections to engines: one request at a time on each, bytes handed to whoever relays them.

Knows: sockets, when a connection may be used again, where a response's head ends. Does not know: what
becomes of the body; that is the `Exchange`'s.

A request is written once, to one connection. So a kept connection must be known to be alive: it was idle for
less than engines wait (`IDLE_LIMIT`), and a look at its socket finds no end of file. One that carried
an event stream rests first (`REST`): llama.cpp closes those without saying so, but at once. Where an engine has
answered on such a connection, its others rest no more, unless it closes one of them.

An idle connection occupies one of llama.cpp's HTTP threads, of which it has a few more than slots. So no more
are kept than the engine works on at once.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol, cast

from enginery.errors import BadEngineReply, EngineUnreachable
from enginery.gateway.framing import MAX_HEAD_BYTES, ResponseHead, parse_head
from enginery.gateway.outbox import Outbox
from enginery.threads import in_daemon_thread
from enginery.values import Endpoint

__all__ = ["Exchange", "Upstream", "UpstreamPool"]

IDLE_LIMIT = 1.5
"""Seconds for which an idle connection is kept. llama.cpp and uvicorn close theirs after 5."""

REST = 0.05
"""Seconds that a connection rests after an event stream, until its engine has answered on one that had."""

CONNECT_TIMEOUT = 10.0
"""Seconds. An address that is nobody's is found out by them; on a machine that is very busy, a connection takes some."""


class Exchange(Protocol):
    """One request's response, as the connection tells it. Nothing is called after `Upstream.detach`."""

    def on_head(self, head: ResponseHead, rest: bytes) -> None:
        """The head has come, and the body's first bytes. An error of ours raised here is told to `on_lost`."""
        ...

    def on_body(self, data: bytes) -> None:
        """Bytes of the body, framed as the engine sent them."""
        ...

    def on_lost(self, error: Exception | None) -> None:
        """The connection is gone, or unusable; None: the engine closed it."""
        ...


class Upstream(asyncio.Protocol):
    """One connection to an engine."""

    __slots__ = (
        "_after_stream",
        "_buffer",
        "_exchange",
        "_poll",
        "_pool",
        "_reading",
        "_receive",
        "free_at",
        "keep_alive",
        "outbox",
        "transport",
    )

    def __init__(self, pool: _EnginePool) -> None:
        self.transport: asyncio.Transport | None = None
        self.keep_alive = True
        self.free_at = 0.0
        self.outbox = pool.outbox
        """What is sent, here and to those who get the replies, goes through it."""
        self._pool = pool
        self._exchange: Exchange | None = None
        self._reading: Exchange | None = None
        """The same, once its head has come."""
        self._buffer = b""
        self._receive: Callable[[bytes], None] = self._unasked
        self._poll: select.poll | None = None
        self._after_stream = False
        """It carried a stream, and nothing since."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine has not closed it, nor said anything unasked; only while it is idle. Nothing is read."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        try:
            poll = self._poll
            if poll is None:
                poll = self._poll = select.poll()
                poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write one request; what comes back goes to ``exchange``."""
        transport = self.transport
        assert transport is not None
        self._exchange = exchange
        self._receive = self._on_head
        if len(body) < 65536:
            self.outbox.put(transport.write, head + body)
        else:
            self.outbox.flush()
            transport.write(head)
            transport.write(body)

    def detach(self, *, reusable: bool, rest: float = 0.0) -> None:
        """The exchange is over; the connection is kept for the next one after ``rest`` s, or closed."""
        self._exchange = self._reading = None
        self._receive = self._unasked
        self._after_stream = rest > 0
        if self.transport is None:
            return
        if reusable and self.keep_alive and not self._buffer:
            self._pool.keep(self, rest)
        else:
            self.drop()

    def drop(self) -> None:
        """We close it: that says nothing of the engine."""
        self._after_stream = False
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Read nothing for now: the client is slower than the engine."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # -- called by asyncio -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            if self._reading is not None:
                self._reading.on_body(data)
            else:
                self._receive(data)
        except BadEngineReply as error:
            self._break(error)

    def eof_received(self) -> None:
        """The engine sends no more: close, which `connection_lost` tells."""

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.transport = None
        self._pool.forget(self)
        if self._after_stream:
            self._pool.keeps_open = False
        self._fail(exc)

    # -- inside ------------------------------------------------------------------------------------

    def _fail(self, error: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        self._reading = None
        self._receive = self._unasked
        if exchange is not None:
            exchange.on_lost(error)

    def _unasked(self, _: bytes) -> None:
        """Bytes that nobody asked for: this connection cannot be trusted."""
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()

    def _on_head(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        data = self._buffer + data if self._buffer else data
        while True:
            end = data.find(b"\r\n\r\n")
            if (end if end >= 0 else len(data) - 3) > MAX_HEAD_BYTES:
                raise BadEngineReply("the engine's reply has no end of its head")
            if end < 0:
                self._buffer = data
                return
            head = parse_head(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                break
            if head.status == 101:
                raise BadEngineReply("the engine changed the protocol, which nobody asked for")
            # 100 Continue and the like: the real head follows
        if self._after_stream:
            self._after_stream = False
            if self._pool.keeps_open is None:
                self._pool.keeps_open = True
        self.keep_alive = head.keep_alive
        self._reading = exchange
        self._buffer = b""
        exchange.on_head(head, data)

    def _break(self, error: BadEngineReply) -> None:
        self.keep_alive = False
        if self.transport is not None:
            self.transport.abort()
        self._fail(error)


class _EnginePool:
    """The connections to one endpoint."""

    def __init__(
        self, endpoint: Endpoint, tls: ssl.SSLContext | None, kept: int, outbox: Outbox
    ) -> None:
        self.endpoint = endpoint
        self.outbox = outbox
        self._tls = tls
        self._kept = kept
        self._idle: list[Upstream] = []
        self._resting: deque[Upstream] = deque()
        self._all: set[Upstream] = set()
        self._opening = 0
        self.keeps_open: bool | None = None
        """The engine answers on connections that have carried a stream: they need no rest. None: not known yet; False
        for good, once it has closed one."""

    def take(self, now: float) -> Upstream | None:
        """A kept connection that is alive, the one used last."""
        while self._resting and self._resting[0].free_at <= now:
            self._idle.append(self._resting.popleft())
        while self._idle:
            upstream = self._idle.pop()
            if now - upstream.free_at < IDLE_LIMIT and upstream.is_alive:
                return upstream
            upstream.drop()
        return None

    async def connect(self) -> Upstream:
        """A new connection.

        Raises:
            EngineUnreachable: nobody listens.
        """
        loop, at = asyncio.get_running_loop(), self.endpoint
        self._opening += 1
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if at.unix_path is not None:
                    _, upstream = await loop.create_unix_connection(self._new, at.unix_path)
                else:
                    _, upstream = await loop.create_connection(
                        self._new, at.host, at.port, ssl=self._tls
                    )
        except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: no name of a host
            why = "it does not answer" if isinstance(error, TimeoutError) else error
            raise EngineUnreachable(f"{at.base_url}: {why}") from error
        finally:
            self._opening -= 1
        return upstream

    def _new(self) -> Upstream:
        return Upstream(self)

    def made(self, upstream: Upstream) -> None:
        """It is open."""
        self._all.add(upstream)

    def keep(self, upstream: Upstream, rest: float) -> None:
        """It is idle again, and free in ``rest`` seconds."""
        if len(self._idle) + len(self._resting) < self._kept:
            rest = 0.0 if self.keeps_open else rest
            upstream.free_at = monotonic() + rest
            (self._resting if rest else self._idle).append(upstream)
        else:
            upstream.drop()

    def forget(self, upstream: Upstream) -> None:
        """It is closed."""
        self._all.discard(upstream)
        for kept in (self._idle, self._resting):
            with suppress(ValueError):
                kept.remove(upstream)

    def prune(self, now: float) -> None:
        """Close what was idle for too long."""
        for upstream in [*self._idle, *self._resting]:
            if now - upstream.free_at >= IDLE_LIMIT:
                upstream.drop()  # `forget` follows

    @property
    def is_empty(self) -> bool:
        """True without a single connection, open or on its way: one that is forgotten is never closed."""
        return not (self._all or self._opening)

    def close(self) -> None:
        """Close every connection."""
        for upstream in list(self._all):
            if upstream.transport is not None:
                upstream.transport.abort()


class UpstreamPool:
    """Connections to all engines, by endpoint."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        """What is sent through any of them, and to those who get the replies, is gathered here."""
        self._pools: dict[Endpoint, _EnginePool] = {}
        self._tls: ssl.SSLContext | None = None

    def take(self, endpoint: Endpoint, now: float) -> Upstream | None:
        """A kept connection to ``endpoint``; None: `connect`."""
        pool = self._pools.get(endpoint)
        return None if pool is None else pool.take(now)

    async def connect(self, endpoint: Endpoint, kept: int) -> Upstream:
        """A new connection to ``endpoint``, of which ``kept`` are kept when idle.

        Raises:
            EngineUnreachable: nobody listens.
        """
        pool = self._pools.get(endpoint)
        if pool is None:
            secure = endpoint.scheme == "https"
            tls = await self._context() if secure else None
            pool = self._pools.setdefault(endpoint, _EnginePool(endpoint, tls, kept, self.outbox))
        return await pool.connect()

    def prune(self, now: float) -> None:
        """Called once a second: close what was idle for too long, forget engines that are gone."""
        for endpoint, pool in list(self._pools.items()):
            pool.prune(now)
            if pool.is_empty:
                del self._pools[endpoint]

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    async def _context(self) -> ssl.SSLContext:
        """The machine's certificates, read once and in a thread: that takes 60 ms."""
        if self._tls is None:
            self._tls = await in_daemon_thread(ssl.create_default_context, "read certificates")
        return self._tls
