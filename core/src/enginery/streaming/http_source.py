"""`http_source`: tokens out of any running `EngineClient`.

Knows: how a reply comes in over HTTP, and what it means that a connection breaks. Does not know: readers, or the JSON of
chunks (`chunks`). Each stream is one task and one connection: leaving is closing it, and a reader that is behind with
``block`` is felt by the engine through it, by this stream alone.
"""

from __future__ import annotations

import asyncio
import weakref

import aiohttp

from enginery.api.sse import SSEDecoder
from enginery.engine.client import EngineClient, PluginEngineClient, route_of
from enginery.engine.transport import open_session
from enginery.errors import EngineClosedError, EngineCrashed, EngineryError
from enginery.streaming.chunks import Piece, body_of, decoded, piece_of, refusal_of
from enginery.streaming.config import StreamRequest
from enginery.streaming.feed import TokenFeed
from enginery.streaming.home import Home
from enginery.streaming.source import TokenSource
from enginery.streaming.waiters import LoopWaiter, Waiter
from enginery.values import EngineRequest, JSONObject, ResponseTransform

__all__ = ["http_source"]


def http_source(client: EngineClient) -> TokenSource:
    """A source over a running engine; the client stays its owner's.

    A client of an `EngineManager` takes its leases on the manager's loop, so make the source there; it may then be read
    from any thread. Without a running loop the source has a private one.
    """
    return _HttpSource(client)


class _HttpSource:
    """A `TokenSource`; see `http_source`."""

    def __init__(self, client: EngineClient) -> None:
        self._works = _Works(client)
        self._finalizer = weakref.finalize(self, self._works.ask_for_end)
        self._finalizer.atexit = False

    @property
    def is_available(self) -> bool:
        """See `TokenSource`; whether the engine answers, `EngineClient.check_health` knows."""
        return not self._works.is_closed

    def start(self, request: StreamRequest, feed: TokenFeed) -> None:
        """See `TokenSource`."""
        self._works.start(request, feed)

    def close(self) -> None:
        """See `TokenSource`."""
        self._works.close()


class _Works:
    """The client, its loop, and a task for each stream."""

    def __init__(self, client: EngineClient) -> None:
        self.is_closed = False
        self._client = client
        self._home = Home()
        self._live: dict[TokenFeed, asyncio.Task[None]] = {}

    def start(self, request: StreamRequest, feed: TokenFeed) -> None:
        if self.is_closed:
            raise EngineClosedError("the source is closed")
        home = self._home
        feed.on_abandon = lambda: home.call_if_alive(self._abort, feed)
        home.call(self._begin, body_of(request, self._client.variant.model), feed)

    def ask_for_end(self) -> None:
        """Takes no lock: it runs in the garbage collector, too."""
        self.is_closed = True
        self._home.call_if_alive(self._end)

    def close(self) -> None:
        self.ask_for_end()
        self._home.close()

    def _begin(self, body: JSONObject, feed: TokenFeed) -> None:
        task = self._home.start(_run(self._client, body, feed))
        self._live[feed] = task
        task.add_done_callback(lambda _: self._forget(feed))
        if feed.abandoned or self.is_closed:
            self._abort(feed)

    def _forget(self, feed: TokenFeed) -> None:
        del self._live[feed]
        _wake(feed.close())  # where the task was cancelled before it began

    def _abort(self, feed: TokenFeed) -> None:
        _wake(feed.close())
        task = self._live.get(feed)
        if task is not None:
            task.cancel()

    def _end(self) -> None:
        for feed in list(self._live):
            self._abort(feed)
        self._home.leave()


async def _run(client: EngineClient, body: JSONObject, feed: TokenFeed) -> None:
    """One reply into its stream, whatever happens."""
    try:
        await _relay(client, body, feed)
    except asyncio.CancelledError:
        _wake(feed.fail(EngineClosedError("the event loop of this stream has ended")))
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, it is this stream's
        _wake(feed.fail(error))


async def _relay(client: EngineClient, body: JSONObject, feed: TokenFeed) -> None:
    reason: str | None = None
    transform = _transform(client, body)
    opened = client.open_session() if isinstance(client, PluginEngineClient) else open_session()
    async with opened as session, await client.forward_request(session, "", body) as response:
        if response.status != 200:
            raise refusal_of(client.variant.id, response.status, await response.read())
        try:
            if response.content_type == "application/json":  # a server that does not stream
                whole = decoded(await response.read())
                piece = piece_of(whole if transform is None else transform.reply(whole))
                await _put(feed, piece)
                _wake(feed.finish(piece.finish_reason or "stop"))
                return
            decoder = SSEDecoder()
            async for data in response.content.iter_any():
                for event in decoder.feed(data):
                    if event.data == "[DONE]":
                        continue
                    chunk = decoded(event.data)
                    for each in [chunk] if transform is None else transform.chunk(chunk):
                        piece = piece_of(each)
                        reason = piece.finish_reason or reason
                        await _put(feed, piece)
            for each in [] if transform is None else transform.end():
                piece = piece_of(each)
                reason = piece.finish_reason or reason
                await _put(feed, piece)
        except aiohttp.ClientError as error:
            raise await _why(client, error) from error
    if reason is None:
        raise await _why(client, EOFError("the stream ended before the reply was complete"))
    _wake(feed.finish(reason))


async def _put(feed: TokenFeed, piece: Piece) -> None:
    feed.usage(piece.prompt_tokens, piece.completion_tokens)
    if piece.text:
        _wake(feed.put(piece.text, logprobs=piece.logprobs))
        while feed.on_full == "block" and feed.must_wait(waiter := LoopWaiter()):
            await waiter.wait(None)


def _wake(waiter: Waiter | None) -> None:
    if waiter is not None:
        waiter.wake()


def _transform(client: EngineClient, body: JSONObject) -> ResponseTransform | None:
    if not isinstance(client, PluginEngineClient):
        return None
    return client.hooks.transform_response(
        EngineRequest(route_of(body), body, True), client.variant
    )


async def _why(client: EngineClient, error: Exception) -> EngineryError:
    if isinstance(client, PluginEngineClient):
        return await client.why_broken(error)
    return EngineCrashed(f"{client.variant.id} broke off: {error}")
