"""From the core to the clients: one task reads every batch, and hands each output to whoever waits for it.

Knows: who waits for which request, and how a token gets to a client without waking a task for it. Does not know: what
a request is, or what frames say. A stream's first frame goes through aiohttp, with the head; from then on frames are
written to the connection as they are made: a task's wake-up and aiohttp's own writing cost more than the token did.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from enginery.coreserver.replies import Frames, Sum
from enginery.enginecore.async_mp import AsyncMPClient
from enginery.enginecore.messages import EngineCoreOutput, EngineCoreRequest

__all__ = ["Delivery", "StreamReply", "WholeReply"]

HIGH_WATER = 256 * 1024
"""Bytes that a client has not taken, above which its text waits here, as one piece."""


class _Reply(Protocol):
    def feed(self, output: EngineCoreOutput) -> None: ...


class Delivery:
    """All requests of one core that are under way."""

    def __init__(self, client: AsyncMPClient) -> None:
        self._client = client
        self._replies: dict[str, _Reply] = {}

    async def run(self) -> None:
        """Deliver until the core's end; raises what `get_output_async` raises then.

        Before that, each request has got its last output.
        """
        replies, client = self._replies, self._client
        while True:
            for output in (await client.get_output_async(math.inf)).outputs:
                ended = output.finish_reason is not None
                find = replies.pop if ended else replies.get
                reply = find(output.request_id, None)
                if reply is not None:
                    reply.feed(output)

    async def begin(self, request: EngineCoreRequest, reply: _Reply) -> None:
        """Hand a request to the core. Raises what `add_request_async` raises."""
        self._replies[request.request_id] = reply
        try:
            await self._client.add_request_async(request)
        except BaseException:
            await self.end(request)
            raise

    async def end(self, request: EngineCoreRequest) -> None:
        """Nobody waits any more; a request that is unfinished is aborted."""
        if self._replies.pop(request.request_id, None) is not None:
            await self._client.abort_requests_async([request.request_id])

    def ids(self) -> list[str]:
        """Of all requests under way."""
        return list(self._replies)

    def __len__(self) -> int:
        return len(self._replies)


class WholeReply:
    """Collects one reply; `over` is done when it is complete."""

    def __init__(self) -> None:
        self.total = Sum()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def feed(self, output: EngineCoreOutput) -> None:
        """Take the next output."""
        self.total.add(output)
        if self.total.last is not None and not self.over.done():
            self.over.set_result(None)


class StreamReply:
    """Writes one reply as it comes.

    `begun` is done with the first output, `over` with the last one. In between, after `attach`, frames go straight
    to the connection; what was not written then is in `total`.
    """

    def __init__(self, frames: Frames) -> None:
        self.total = Sum()
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self._frames = frames
        self._transport: asyncio.Transport | None = None
        self._chunked = True

    def attach(self, transport: asyncio.Transport, *, chunked: bool) -> None:
        """From now on write there, in chunks of HTTP/1.1 or, for older clients, as it is."""
        self._transport, self._chunked = transport, chunked

    def feed(self, output: EngineCoreOutput) -> None:
        """Take the next output, and write it if the client keeps up."""
        total = self.total
        total.add(output)
        if total.last is not None:
            for waiter in (self.begun, self.over):
                if not waiter.done():
                    waiter.set_result(None)
            return  # the end is written by who waits for it, with the last piece
        transport = self._transport
        if transport is None:
            if not self.begun.done():
                self.begun.set_result(None)
        elif transport.get_write_buffer_size() <= HIGH_WATER and not transport.is_closing():
            frame = self.taken()
            if frame:
                transport.write(b"%x\r\n%b\r\n" % (len(frame), frame) if self._chunked else frame)

    def taken(self) -> bytes:
        """The frame of what was not written yet."""
        return self._frames.piece(*self.total.take())
