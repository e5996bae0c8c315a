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

from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from enginery.errors import EngineryError, InvalidRequest
from enginery.gateway.answers import error_response, raw_error
from enginery.gateway.fast import LONGEST, FastPath
from enginery.gateway.relay import Relay, Sent
from enginery.gateway.request_head import request_id_of

__all__ = ["ClientConnection", "GatewayServer"]

TURNS = 16
"""Turns of the loop that aiohttp gets to come back from a reply to its waiting; it needs about five."""

_QUOTED = 200
"""Characters of aiohttp's own complaint that a client is told; it quotes the client's bytes."""


class ClientConnection(RequestHandler):
    """One client's connection."""

    def __init__(self, manager: GatewayServer, fast: FastPath | None, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.relay: Relay | None = None
        self._fast = fast
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed = 0
        self._busy = False
        """A request is on the short way: what comes meanwhile waits."""

    async def drain(self) -> None:
        """Returns when the client has taken enough of what was written.

        Raises:
            ConnectionResetError: it left.
        """
        await self._drain_helper()

    # -- called by asyncio -----------------------------------------------------------------------

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
            if size < len(data):
                self._hold(data[size:])
        elif size < 0:
            self._needed = -size
            self._hold(data)
        else:
            if fast.measure(data) != len(data):
                # several requests at once, or one that cannot be told apart: all aiohttp's
                self._fast = None
            self._to_aiohttp(data)

    def _to_aiohttp(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except ValueError as error:  # its parser in Python, at a length of thousands of digits
            refused = InvalidRequest(f"this is no HTTP request: {str(error)[:_QUOTED]}")
            id_ = request_id_of(None)
            extra = b"x-request-id: %b\r\nConnection: close\r\n" % id_.encode()
            if self.transport is not None:
                self.transport.write(raw_error(refused, Sent("other", id_, extra)))
            self.force_close()

    def _over(self, *, keep_alive: bool) -> None:
        """The short way has come to its end: the reply is written."""
        self._busy = False
        # aiohttp knows nothing of this request: its clock for idle connections begins anew
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._keepalive = True
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
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
        return data

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
    """aiohttp's server, with connections of ours."""

    def __init__(self, *args: Any, fast: FastPath | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fast = fast

    def __call__(self) -> RequestHandler:
        """A connection was accepted."""
        return ClientConnection(self, self._fast, loop=self._loop, **self._kwargs)
