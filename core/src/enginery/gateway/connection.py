"""A client's connection: aiohttp's request handler, and beside it the short way for plain requests.

Knows: that a complete POST of a hot route, for an engine that is ready and a connection that is kept, can go on its
way in the very call in which it came: no task, no parser, no future. Everything else, and every error, is
aiohttp's: its bytes are handed over as they came, and `handler` answers. So the short way holds no
decision of its own, and takes nothing that needs one.

Relies on aiohttp's `RequestHandler` (3.14, pinned): `data_received` is called with bytes, `_messages`,
`_current_request` and `_waiter` say whether it is between two requests, and `_process_keepalive` closes a
connection that it takes for idle. ``tests/core/gateway/test_connection.py`` holds it to that.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from enginery.errors import EngineryError, InvalidRequest, RequestTimeout
from enginery.gateway.answers import error_response, raw_error
from enginery.gateway.fast import LONGEST, FastPath
from enginery.gateway.limits import BodyBudget, ConnectionLimits
from enginery.gateway.outbox import Outbox
from enginery.gateway.request_head import request_id_of
from enginery.gateway.sent import Sent, Source

__all__ = ["ClientConnection", "GatewayServer"]

TURNS = 16
"""Turns of the loop that aiohttp gets to come back from a reply to its waiting; it needs about five."""

_QUOTED = 200
"""Characters of aiohttp's own complaint that a client is told; it quotes the client's bytes."""


class ClientConnection(RequestHandler):
    """One client's connection."""

    def __init__(self, manager: GatewayServer, fast: FastPath | None, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.relay: Source | None = None
        self._fast = fast
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed = 0
        self._limits = manager.limits
        self._budget = manager.budget
        self._outbox = manager.outbox
        self._reserved = 0
        """Bytes of the budget that what is held of one body takes."""
        self._due = 0.0
        """When the head, or the body, that is under way must be complete; 0: none is."""
        self._silent = True
        """Nothing has come yet."""
        self._unread = (0, 0.0)
        """How much of what was written the client had not taken, and since when."""
        self._busy = False
        """A request is on the short way: what comes meanwhile waits."""

    async def drain(self) -> None:
        """Returns when the client has taken enough of what was written.

        Raises:
            ConnectionResetError: it left.
        """
        await self._drain_helper()

    def look(self, now: float) -> None:
        """Once a second: cut it off where its client is too slow, in sending or in reading."""
        transport = self.transport
        if transport is None:
            return
        if self._due and now > self._due:
            self._due = 0.0
            if self._silent:
                transport.abort()
            else:
                self._refuse(RequestTimeout("the request did not come in time"))
            return
        unread, since = self._unread
        left = transport.get_write_buffer_size()
        if left != unread:
            self._unread = (left, now)
        elif left and now - since > self._limits.write_stall:
            transport.abort()

    # -- called by asyncio -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._due = monotonic() + self._limits.header

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        fast = self._fast
        if fast is None or not data:  # aiohttp calls itself with nothing, when a body was read
            self._to_aiohttp(data)
            return
        if self._busy or self._held:
            self._hold(data)
            if self._busy or self._held_bytes < self._needed:
                return
            data = self._take()
        elif not self._between_requests():
            # aiohttp has answered and comes back to its waiting in a few turns of the loop; or it is in
            # the middle of something, and from now on the connection is all its
            self._hold(data)
            self._busy = True
            self._loop.call_soon(self._after_aiohttp, TURNS)
            return
        self._next(fast, data)

    def _after_aiohttp(self, turns: int) -> None:
        """What came while aiohttp was not waiting."""
        if self.transport is None or self._fast is None:
            return
        if self._between_requests():
            self._busy = False
            self._next(self._fast, self._take())
        elif turns and self.relay is None:
            self._loop.call_soon(self._after_aiohttp, turns - 1)
        else:
            self._fast = None
            self._busy = False
            self._to_aiohttp(self._take())

    def _next(self, fast: FastPath, data: bytes) -> None:
        """``data`` begins with a request."""
        size = fast.begin(self, data, self._over)
        if size > 0:
            self._busy = True
            self._due = 0.0
            if size < len(data):
                self._hold(data[size:])
        elif size < 0:
            if self._awaits(data, -size):
                self._needed = -size
                self._hold(data)
            else:
                self._to_aiohttp(data)
        else:
            if fast.measure(data) != len(data):
                # several requests at once, or one that cannot be told apart: all aiohttp's
                self._fast = None
            self._to_aiohttp(data)

    def _awaits(self, data: bytes, size: int) -> bool:
        """More has to come; False where a body of this size is too much to be held here."""
        self._silent = False
        if b"\r\n\r\n" not in data:
            self._await_head()
            return True
        if not self._budget.take(size):
            return False
        self._reserved = size
        limits = self._limits
        self._due = monotonic() + limits.body_grace + size / limits.body_rate
        return True

    def _await_head(self) -> None:
        self._silent = False
        self._due = self._due or monotonic() + self._limits.header

    def _to_aiohttp(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except ValueError as error:  # its parser in Python, at a length of thousands of digits
            self._refuse(InvalidRequest(f"this is no HTTP request: {str(error)[:_QUOTED]}"))
            return
        if self._messages or self._current_request is not None:
            self._due = 0.0  # its head is complete; for the body see `handler`
        elif data:
            self._await_head()

    def _refuse(self, error: EngineryError) -> None:
        """Answer what never became a request, and close."""
        id_ = request_id_of(None)
        extra = b"x-request-id: %b\r\nConnection: close\r\n" % id_.encode()
        if self.transport is not None:
            sent = Sent("other", id_, extra)
            self._outbox.flush()
            self.transport.write(raw_error(error, sent, engine_saw_request=False))
        self.force_close()

    def _over(self, keep_alive: bool) -> None:
        """The short way has come to its end: the reply is written."""
        self._busy = False
        # aiohttp knows nothing of this request: its clock for idle connections begins anew
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if not keep_alive:
            if self.transport is not None:
                self.transport.close()
        elif self._held and self._fast is not None and self.transport is not None:
            self._needed = 0
            self._next(self._fast, self._take())

    def _between_requests(self) -> bool:
        return self._waiter is not None and not self._messages and self._current_request is None

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._busy and self._held_bytes > LONGEST and self.transport is not None:
            self.transport.pause_reading()

    def _take(self) -> bytes:
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        if self._held_bytes > LONGEST and self.transport is not None:
            self.transport.resume_reading()
        self._held.clear()
        self._held_bytes = 0
        self._needed = 0
        self._let_go()
        return data

    def _let_go(self) -> None:
        if self._reserved:
            self._budget.give(self._reserved)
            self._reserved = 0

    def _process_keepalive(self) -> None:
        if self._busy:
            self._keepalive_handle = self._loop.call_later(
                self._keepalive_timeout, self._process_keepalive
            )
        else:
            super()._process_keepalive()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        if self.relay is not None:
            self.relay.pause()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self.relay is not None:
            self.relay.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        relay, self.relay = self.relay, None
        self._let_go()
        super().connection_lost(exc)
        if relay is not None:
            relay.client_left()

    # -- called by aiohttp -----------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  # aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp itself refuses, or a defect of ours, in our shape."""
        if status < 500:
            said = " ".join(str(message or exc).split())[:_QUOTED]
            error: EngineryError = InvalidRequest(f"this is no HTTP request: {said}")
        else:
            self.log_exception("Error handling request", exc_info=exc)
            error = EngineryError("internal error; the gateway's log says more")
        error.status = status
        response = error_response(error)
        response.headers["x-request-id"] = request_id_of(None)
        response.force_close()
        return response


class GatewayServer(web.Server):
    """aiohttp's server, with connections of ours.

    Args:
        fast: the short way; None: everything is aiohttp's.
        limits: what clients may take.
        budget: what is held of their bodies.
        outbox: what the short way sends them.
    """

    def __init__(
        self,
        *args: Any,
        fast: FastPath | None,
        limits: ConnectionLimits,
        budget: BodyBudget,
        outbox: Outbox,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.budget = budget
        self.outbox = outbox
        self._fast = fast

    def look(self, now: float) -> None:
        """Once a second: cut off clients that are too slow."""
        for connection in self.connections:
            if isinstance(connection, ClientConnection):
                connection.look(now)

    def __call__(self) -> RequestHandler:
        """A connection was accepted."""
        return ClientConnection(self, self._fast, loop=self._loop, **self._kwargs)
