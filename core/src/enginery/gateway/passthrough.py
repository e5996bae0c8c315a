"""One request to a leased engine as it came, and the reply as it comes: any method, path and body.

Knows: which headers go through, either way. Does not know: which engine, or why. Inference does not come this
way: here nothing is counted, folded or mended, so aiohttp's own client does. A reply that breaks off ends with
the client's connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from yarl import URL

from enginery.engine.catalog import Limits
from enginery.engine.lease import Lease
from enginery.engine.transport import auth_headers
from enginery.errors import BodyTooLarge, EngineryError, EngineTimeout, InvalidRequest
from enginery.gateway.request_head import REQUEST_ID

__all__ = ["Passage"]

_TO_ENGINE = (
    *("Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Content-Encoding"),
    *("Content-Type", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range"),
    *("If-Unmodified-Since", "Last-Event-ID", "Range", "traceparent", "User-Agent"),
)
"""No cookie and no credential: those are the gateway's."""

_NOT_BACK = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "set-cookie", "x-request-id", "server", "date"),
        *("strict-transport-security", "content-length"),
    }
)
"""What holds for one connection only, or speaks for the engine's address and not for ours."""


class Passage:
    """One request's way through.

    Args:
        request: the client's.
        lease: to the engine; it ends with the reply.
        limits: the model's deadlines.
        body_limit: bytes that the body may have.
    """

    def __init__(
        self, request: web.Request, lease: Lease, limits: Limits, *, body_limit: int
    ) -> None:
        self._request = request
        self._lease = lease
        self._limits = limits
        self._body_limit = body_limit
        self._begun = False

    async def take(self, target: str) -> web.StreamResponse:
        """The reply to the request at ``target``: path and query, percent-encoded as they came.

        Raises:
            EngineryError: nothing was answered yet: the engine is gone, was taken away or is too slow, or the
                body has too many bytes.
        """
        task = asyncio.current_task()
        assert task is not None
        outcome = "engine_error"

        def evicted(_: EngineryError) -> None:
            task.cancel()

        self._lease.on_evict(evicted)
        try:
            response = await self._exchange(target)
            outcome = "ok"
        except asyncio.CancelledError:
            outcome = "client_gone"
            if self._lease.error is None or self._begun:
                self._cut()
                raise
            task.uncancel()
            raise self._lease.error from None
        else:
            return response
        finally:
            self._lease.release(outcome)

    async def _exchange(self, target: str) -> web.StreamResponse:
        request, endpoint = self._request, self._lease.endpoint
        headers = {name: value for name in _TO_ENGINE if (value := request.headers.get(name))}
        headers |= {**auth_headers(endpoint), "x-request-id": request[REQUEST_ID]}
        length = request.content_length
        if (length or 0) > self._body_limit:
            raise BodyTooLarge(f"the body has {length} bytes; the limit is {self._body_limit}")
        if length:
            headers["Content-Length"] = str(length)
        async with self._lease.client.open_session() as session:
            asked = session.request(
                request.method,
                URL(f"{endpoint.request_url}{target}", encoded=True),
                data=self._body() if request.body_exists else None,
                headers=headers,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                allow_redirects=False,
            )
            async with await self._head(asked) as reply:
                return await self._answer(reply)

    async def _head(self, asked: aiohttp.client._RequestContextManager) -> aiohttp.ClientResponse:
        """The reply's head, or why there is none."""
        limit = self._limits.first_byte
        try:
            async with asyncio.timeout(limit):
                return await asked
        except TimeoutError as error:
            text = f"{self._lease.variant.id} did not send a first byte in {limit:g} s"
            raise EngineTimeout(text) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            if isinstance(error.__cause__, EngineryError):  # the body's, not the engine's
                raise error.__cause__ from None
            raise await self._lease.client.why_broken(error) from error

    async def _answer(self, reply: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, reason=reply.reason)
        for name, value in reply.headers.items():
            low = name.lower()
            if low not in _NOT_BACK and not low.startswith("access-control-"):
                response.headers.add(name, value)
        length = reply.headers.get("Content-Length")
        if length is not None and reply.status not in {204, 304}:
            response.content_length = int(length)
        response.headers["x-request-id"] = self._request[REQUEST_ID]
        self._begun = True
        await response.prepare(self._request)
        try:
            while piece := await self._piece(reply):
                await response.write(piece)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            self._cut()
            return response
        await response.write_eof()
        return response

    async def _piece(self, reply: aiohttp.ClientResponse) -> bytes:
        async with asyncio.timeout(self._limits.stall):
            return await reply.content.readany()

    async def _body(self) -> AsyncIterator[bytes]:
        """The client's body as it comes; nothing of it is kept."""
        size = 0
        try:
            async for piece in self._request.content.iter_any():
                size += len(piece)
                if size > self._body_limit:
                    limit = self._body_limit
                    raise BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
                yield piece
        except (web.RequestPayloadError, ConnectionError) as error:
            raise InvalidRequest(f"the body broke off: {error}") from None

    def _cut(self) -> None:
        """Half a reply must not look like a whole one."""
        if self._begun and self._request.transport is not None:
            self._request.transport.abort()
