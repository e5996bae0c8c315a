"""aiohttp's door to the models: any POST that is not the gateway's own.

Knows: what a request must look like on the wire, and each stage of its way, in order: read, want, lease (held,
where that takes time), connect, send, relay. Does not know: how each stage does it.

A client may leave at any point: aiohttp then cancels the handler, and every stage leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, cast

from aiohttp import web

from enginery.api.body import decode_body
from enginery.api.endings import Api, api_of
from enginery.engine.lease import Lease
from enginery.errors import (
    BodyTooLarge,
    EngineryError,
    EngineUnreachable,
    InvalidRequest,
    MethodNotAllowed,
    QueueFull,
    RequestTimeout,
    UnsupportedMediaType,
)
from enginery.gateway.answers import AlreadySent, StreamAnswer, error_response, json_response
from enginery.gateway.decoded import Reading, changed_reply, changed_stream, folded_reply
from enginery.gateway.doorway import visitor_of
from enginery.gateway.error_replies import as_error
from enginery.gateway.held import HEARTBEAT, hold
from enginery.gateway.inference import Finished, Inference, Outgoing, Wanted
from enginery.gateway.limits import BodyBudget, ConnectionLimits
from enginery.gateway.relay import Relay
from enginery.gateway.request_head import CORS, PASSED, REQUEST_ID
from enginery.gateway.sent import Client, Reply, Sent
from enginery.gateway.upstreams import Upstream, UpstreamPool
from enginery.gateway.watch import Watch

__all__ = ["InferenceHandler"]

log = logging.getLogger("enginery.gateway")

_LARGE = 2**20
"""Bytes of body that are decoded in one go; the loop gets a turn before larger ones."""


class Connection(Client, Protocol):
    """The client's connection, as the handler needs it."""

    async def drain(self) -> None:
        """Returns when the client has taken enough of what was written."""
        ...


@dataclass(slots=True)
class _Way:
    """One request's way: what is known of it so far, for the end to tell."""

    path: str
    api: Api
    sent: Sent
    answer: StreamAnswer
    wanted: Wanted | None = None
    lease: Lease | None = None
    asked: bool = False
    """An engine may have seen it."""
    began: float = 0.0
    """When its body had come."""
    overhead_s: float = 0.0
    reserved: int = 0
    """Bytes of the budget that its body takes."""


class InferenceHandler:
    """Serves the models' routes.

    Args:
        inference: decides.
        pool: connections to engines.
        watch: looks after deadlines.
        body_limit: bytes that a body may have; may be set anew.
        limits: how slowly a body may come.
        budget: what all bodies may hold together.
        heartbeat: seconds between two signs of life for a stream that waits.
    """

    def __init__(
        self,
        inference: Inference,
        pool: UpstreamPool,
        watch: Watch,
        *,
        body_limit: int,
        limits: ConnectionLimits,
        budget: BodyBudget,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._inference = inference
        self._pool = pool
        self._watch = watch
        self.body_limit = body_limit
        self._limits = limits
        self._budget = budget
        self._heartbeat = heartbeat

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """One request, from its body to the last byte of its reply."""
        path = request.path
        client = cast("Connection", request.protocol)
        request_id = request[REQUEST_ID]
        sent = Sent(
            api_of(path),
            request_id,
            extra=b"x-request-id: %b\r\n%b" % (request_id.encode(), request.get(CORS, b"")),
            chunked=request.version >= (1, 1),
            keep_alive=bool(request.keep_alive),
        )
        way = _Way(path, sent.api, sent, StreamAnswer(client, sent))
        try:
            reply = await self._serve(request, client, way)
        except EngineryError as error:
            return self._refuse(way, error)
        except asyncio.CancelledError:
            self._tell(way)
            raise
        except Exception as problem:
            log.exception("%s: a defect", request_id)
            return self._refuse(way, as_error(problem))  # aiohttp would put a head into a stream
        else:
            return reply
        finally:
            self._budget.give(way.reserved)
            if way.lease is not None and not self._is_heard_out(way):
                way.lease.release("client_gone")  # whoever ended it well has released it before

    async def _serve(
        self, request: web.Request, client: Connection, way: _Way
    ) -> web.StreamResponse:
        body = decode_body(await self._body(request, way))
        await self._after(len(body.raw))
        way.began = monotonic()
        self._inference.check_allowed(visitor_of(request), body.model)
        way.wanted = wanted = self._inference.want(way.path, body)
        limits = wanted.entry.limits
        way.sent.cancel = limits.on_disconnect == "cancel"
        way.sent.deadlines = self._watch.deadlines(limits)
        way.lease = lease = await self._lease(request, way, wanted)
        lease.reported = True
        way.sent.committed = way.answer.begun
        outgoing = self._inference.outgoing(wanted, lease)
        upstream = await self._connect(lease)
        if lease.error is not None:  # the engine was taken away meanwhile
            upstream.detach(reusable=True)
            raise lease.error
        passed = {
            name: value
            for name in PASSED
            if (value := request.headers.get(name.decode(), "").encode("utf-8", "surrogateescape"))
        }
        head = self._inference.head(
            lease.endpoint,
            way.path,
            len(outgoing.payload),
            passed,
            b"x-request-id: %b\r\n" % way.sent.request_id.encode(),
        )
        way.asked = True
        waited = lease.queue_s + lease.swap_s
        way.overhead_s = max(0.0, monotonic() - way.began - waited)
        if outgoing.relayed:
            result = await self._relay(client, way, lease, upstream, head, outgoing)
            self._tell(way, reply=result)
            return AlreadySent(keep_alive=result.keep_alive)
        return await self._decode(client, way, lease, upstream, head, outgoing)

    # -- stages --------------------------------------------------------------------------------------

    async def _body(self, request: web.Request, way: _Way) -> bytes:
        """The whole body, once its head is found to be one that we take."""
        if request.method != "POST":
            raise MethodNotAllowed(f"{request.path} takes POST, not {request.method}")
        coding = request.headers.get("Content-Encoding", "identity").lower()
        if coding != "identity":
            raise UnsupportedMediaType(f"the body is compressed ({coding}); send it as it is")
        if request.content_type != "application/json":
            raise UnsupportedMediaType(
                f"the body must be JSON: send Content-Type: application/json, not "
                f"{request.headers.get('Content-Type', 'none')!r}"
            )
        if (request.charset or "utf-8").lower().replace("-", "") != "utf8":
            raise UnsupportedMediaType(f"JSON is UTF-8, not {request.charset}")
        limit = self.body_limit
        if (request.content_length or 0) > limit:
            raise BodyTooLarge(f"the body has {request.content_length} bytes; the limit is {limit}")
        self._reserve(way, request.content_length or 0)
        loop, limits = asyncio.get_running_loop(), self._limits
        pieces, size, due = [], 0, loop.time() + limits.body_grace
        try:
            async with asyncio.timeout_at(due) as patience:
                async for piece in request.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > limit:
                        raise BodyTooLarge(
                            f"the body has more than {limit} bytes, which is the limit"
                        )
                    if size > way.reserved:
                        self._reserve(way, size - way.reserved)
                    patience.reschedule(due + size / limits.body_rate)
        except TimeoutError:
            raise RequestTimeout(f"the body did not come in time: {size} bytes have") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise InvalidRequest(f"the body broke off: {error}") from None
        await self._after(size)
        body = b"".join(pieces)
        await self._after(size)
        return body

    async def _after(self, size: int) -> None:
        """Between two steps over a large body, each of which takes milliseconds, others get a turn."""
        if size > _LARGE:
            await asyncio.sleep(0)
            self._pool.outbox.flush()  # nobody's chunk waits for the next step

    def _reserve(self, way: _Way, count: int) -> None:
        if not self._budget.take(count):
            raise QueueFull(
                f"the requests under way have {self._budget.used} bytes of bodies; {count} more are too "
                f"many (at most {self._budget.limit})",
                retry_after=1.0,
            )
        way.reserved += count

    async def _lease(self, request: web.Request, way: _Way, wanted: Wanted) -> Lease:
        manager = self._inference.manager
        lease = manager.try_lease(wanted.route)
        if lease is not None:
            return lease
        waiting = manager.lease(wanted.route)
        if not wanted.request.stream:
            return await waiting
        progress = request.headers.get("x-enginery-progress") == "1"
        return await hold(
            waiting,
            way.answer,
            manager,
            wanted.route,
            progress=progress,
            heartbeat=self._heartbeat,
        )

    async def _connect(self, lease: Lease) -> Upstream:
        kept = self._pool.take(lease.endpoint, monotonic())
        if kept is not None:
            return kept
        try:
            return await self._pool.connect(lease.endpoint, max(2, lease.variant.parallel))
        except EngineUnreachable as error:
            lease.release("engine_error")
            if lease.error is not None:
                raise lease.error from error
            if lease.variant.attached:
                raise
            raise await lease.client.why_broken(error) from error

    async def _relay(
        self,
        client: Connection,
        way: _Way,
        lease: Lease,
        upstream: Upstream,
        head: bytes,
        outgoing: Outgoing,
    ) -> Reply:
        done: asyncio.Future[Reply | EngineryError] = asyncio.get_running_loop().create_future()

        def on_done(_: Relay, result: Reply | EngineryError | None) -> None:
            if result is not None and not done.done():
                done.set_result(result)

        on_first = self._inference.on_first_token
        relay = Relay(client, lease, upstream, way.sent, on_done, self._watch.relays, on_first)
        upstream.send(relay, head, outgoing.payload)
        try:
            result = await done
        except asyncio.CancelledError:
            relay.client_left()
            raise
        if isinstance(result, EngineryError):
            raise result
        return result

    async def _decode(
        self,
        client: Connection,
        way: _Way,
        lease: Lease,
        upstream: Upstream,
        head: bytes,
        outgoing: Outgoing,
    ) -> web.StreamResponse:
        """Folded or transformed replies."""
        results: list[Reply | EngineryError | None] = []

        def on_done(_: Relay, result: Reply | EngineryError | None) -> None:
            results.append(result)

        relays, on_first = self._watch.relays, self._inference.on_first_token
        reading = Reading(client, lease, upstream, way.sent, on_done, relays, on_first)
        upstream.send(reading, head, outgoing.payload)
        transform = outgoing.transform
        try:
            got = await reading.head()
            streams = got.get(b"content-type").startswith(b"text/event-stream")
            if streams and outgoing.folded:
                parse_error = lease.hooks.parse_error
                body = await folded_reply(reading.pieces(), way.api, transform, parse_error)
            elif streams:
                assert transform is not None
                async for piece in changed_stream(reading.pieces(), transform):
                    way.answer.write(piece)
                    await client.drain()
                way.answer.end()
                self._tell(way, reply=_result(results))
                return AlreadySent(keep_alive=way.sent.keep_alive and way.sent.chunked)
            else:
                body = b"".join([piece async for piece in reading.pieces()])
                if transform is not None:
                    body = changed_reply(body, transform)
        finally:
            if not results:
                reading.client_left()
        self._tell(way, reply=_result(results))
        return json_response(body)

    # -- the end -------------------------------------------------------------------------------------

    def _refuse(self, way: _Way, error: EngineryError) -> web.StreamResponse:
        """The error as the reply, or behind what was said already."""
        self._tell(way, error=error)
        if not way.answer.begun:
            return error_response(error, way.api, engine_saw_request=way.asked)
        way.answer.fail(way.api, error)
        return AlreadySent(keep_alive=way.sent.keep_alive and way.sent.chunked)

    def _is_heard_out(self, way: _Way) -> bool:
        """Its client left, and the model's settings want the engine to finish all the same."""
        return way.asked and not way.sent.cancel

    def _tell(
        self, way: _Way, *, reply: Reply | None = None, error: EngineryError | None = None
    ) -> None:
        lease, wanted = way.lease, way.wanted
        self._inference.on_finished(
            Finished(
                path=way.path,
                model="" if wanted is None else wanted.entry.name,
                variant=None if lease is None else lease.variant,
                queue_s=0.0 if lease is None else lease.queue_s,
                swap_s=0.0 if lease is None else lease.swap_s,
                reply=reply,
                error=error,
                request=0 if lease is None else lease.request_id,
                stream=wanted is not None and wanted.request.stream,
                overhead_s=way.overhead_s,
            )
        )


def _result(results: list[Reply | EngineryError | None]) -> Reply | None:
    return results[0] if results and isinstance(results[0], Reply) else None
