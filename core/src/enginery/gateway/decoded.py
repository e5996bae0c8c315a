"""The replies that are read on their way: folded from a stream, or changed by a plugin's transform.

Knows: how an engine's bytes become events, a transform's chunks and one reply again. Does not know: leases,
deadlines, or why an engine broke off: `Reading` is a `Relay`, which does.

Costs what decoding costs, so only requests whose plugin asks for it come here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import msgspec

from enginery.api.aggregate import Fold
from enginery.api.endings import Api
from enginery.api.sse import DONE, SSEDecoder, SSEEvent, encode_event
from enginery.engine.lease import Lease
from enginery.errors import BadEngineReply, EngineError, EngineryError
from enginery.gateway.framing import ResponseHead
from enginery.gateway.relay import Relay
from enginery.gateway.sent import Client, Reply, Sent, Source
from enginery.gateway.upstreams import Upstream
from enginery.plugins.transforms import encode_made
from enginery.values import JSONObject, ResponseTransform

__all__ = ["Reading", "changed_reply", "changed_stream", "folded_reply"]

HIGH, LOW = 256 * 1024, 64 * 1024


class Reading(Relay):
    """A `Relay` that ends in our own code: what comes is read with `head` and `pieces`.

    Args:
        connection: the client's; aborted when its reader stalls.
        lease, upstream, sent, relays, on_first, now: see `Relay`; ``sent`` is without chunks, so that pieces are payload.
        on_done: see `Relay`; called with the error as well, which `pieces` raises.
    """

    def __init__(
        self,
        connection: Client,
        lease: Lease,
        upstream: Upstream,
        sent: Sent,
        on_done: Callable[[Relay, Reply | EngineryError | None], None],
        relays: set[Relay],
        on_first: Callable[[Lease, float], None],
        now: Callable[[], float] = monotonic,
    ) -> None:
        assert connection.transport is not None
        self._pipe = _Pipe(connection.transport)
        raw = msgspec.structs.replace(sent, chunked=False, committed=False)
        super().__init__(self._pipe, lease, upstream, raw, self._ended, relays, on_first, now)
        self._told = on_done
        self._head_came: asyncio.Future[ResponseHead] = asyncio.get_running_loop().create_future()

    async def head(self) -> ResponseHead:
        """The engine's head, which is no error's.

        Raises:
            EngineryError: why none came, or what the engine's error said.
        """
        return await self._head_came

    async def pieces(self) -> AsyncIterator[bytes]:
        """The payload as it comes.

        Raises:
            EngineryError: why it broke off, behind all that came.
        """
        async for piece in self._pipe.pieces():
            yield piece

    def _ended(self, _: Relay, result: Reply | EngineryError | None) -> None:
        error = result.error if isinstance(result, Reply) else result
        self._pipe.end(error)
        if error is not None and not self._head_came.done():
            self._head_came.set_exception(error)
        self._told(self, result)

    def _send_head(self) -> None:
        self._answering = True
        self._say_head()

    def _send_whole(self, head: ResponseHead, body: bytes) -> None:  # noqa: ARG002  # the relay's
        self._say_head()
        self._pipe.write(body)

    def _say_head(self) -> None:
        if self._head is not None and not self._head_came.done():
            self._head_came.set_result(self._head)

    def _send_error(self, error: EngineryError) -> None:
        """Comes with the end: see `_ended`."""


class _Pipe(asyncio.Transport):
    """A transport that keeps what is written for one reader, and pauses the writer when it is much."""

    def __init__(self, client: asyncio.Transport) -> None:
        super().__init__()
        self.relay: Source | None = None
        self.transport: asyncio.Transport | None = self
        self._client = client
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._over = False
        self._error: EngineryError | None = None

    def write(self, data: Any) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._news.set()
        if self._size > HIGH and self.relay is not None:
            self.relay.pause()

    def get_write_buffer_size(self) -> int:
        return self._size

    def is_closing(self) -> bool:
        return self._client.is_closing()

    def abort(self) -> None:
        """The reader stalls because its client does: that one's connection goes."""
        self._client.abort()

    def end(self, error: EngineryError | None) -> None:
        self._over, self._error = True, error
        self._news.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._size -= len(piece)
                if self._size < LOW and self.relay is not None:
                    self.relay.resume()
                yield piece
            if self._over:
                if self._error is not None:
                    raise self._error
                return
            self._news.clear()
            await self._news.wait()


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[SSEEvent]:
    decoder = SSEDecoder()
    async for piece in pieces:
        for event in decoder.feed(piece):
            if event.data != "null":  # llama.cpp with more prompts than slots: one that waits
                yield event


async def folded_reply(
    pieces: AsyncIterator[bytes],
    api: Api,
    transform: ResponseTransform | None,
    parse_error: Callable[[int, bytes], EngineryError | None],
) -> bytes:
    """The one reply that a stream adds up to, as JSON; an error in it is looked at by ``parse_error``, too.

    Raises:
        EngineError: the engine ended its stream with an error, with the status that it meant.
        BadEngineReply: the stream is none, or broke off.
        PluginError: the transform failed.
    """
    fold = Fold(api)
    try:
        async for event in _events(pieces):
            if transform is None or event.data == "[DONE]":
                fold.feed(event)
            else:
                for changed in transform.chunk(_object(event)):
                    fold.add(changed)
    except EngineError as error:
        if fold.error_body is None:  # not one that the engine told
            raise
        told = parse_error(error.status, fold.error_body) or error
        told.source = "engine"
        raise told from None
    if transform is not None:
        for changed in transform.end():
            fold.add(changed)
    return encode_made(fold.finish())


def changed_reply(body: bytes, transform: ResponseTransform) -> bytes:
    """A whole reply after the plugin's transform.

    Raises:
        BadEngineReply: it is no JSON object.
        PluginError: the transform failed.
    """
    try:
        reply = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise BadEngineReply("the engine's reply is no JSON object")
    return encode_made(transform.reply(reply))


async def changed_stream(
    pieces: AsyncIterator[bytes], transform: ResponseTransform
) -> AsyncIterator[bytes]:
    """The events of a stream after the plugin's transform, encoded again.

    ``[DONE]`` and errors pass; what the transform adds at the end comes before ``[DONE]``, or last.
    """
    ended = False
    async for event in _events(pieces):
        name = None if event.event == "message" else event.event
        if event.data == "[DONE]":
            ended = True
            for added in transform.end():
                yield _encoded(added, None)
            yield DONE
        elif event.event == "error":
            yield encode_event(event.data, name)
        else:
            for changed in transform.chunk(_object(event)):
                yield _encoded(changed, name)
    if not ended:
        for added in transform.end():
            yield _encoded(added, None)


def _encoded(chunk: JSONObject, name: str | None) -> bytes:
    return encode_event(encode_made(chunk).decode(), name)


def _object(event: SSEEvent) -> JSONObject:
    try:
        found = msgspec.json.decode(event.data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadEngineReply(
            f"the engine's stream holds what is no JSON: {event.data[:100]!r}"
        ) from error
    if not isinstance(found, dict):
        raise BadEngineReply(f"the engine's stream holds what is no object: {event.data[:100]!r}")
    return found
