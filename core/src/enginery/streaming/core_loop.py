"""`LoopSource`: streams over a client that is awaited (`AsyncMPClient`), served by one task of its loop.

Knows: who awaits the client. Does not know: outputs and tokens (`core_routing`). The task lives while there is a live
stream, and holds the `_Works`, never the source: a source that is dropped is closed.
"""

from __future__ import annotations

import time
import weakref

from enginery.enginecore.client import EngineCoreClient
from enginery.enginecore.messages import EngineCoreRequest
from enginery.errors import EngineClosedError, EngineTimeout
from enginery.streaming.config import StreamRequest
from enginery.streaming.core_routing import Router, core_request, is_final
from enginery.streaming.feed import TokenFeed
from enginery.streaming.home import Home
from enginery.streaming.waiters import LoopWaiter, wake_all

__all__ = ["LoopSource"]

LOOK = 1.0
"""Seconds after which the reader of outputs looks whether it is still wanted."""


class LoopSource:
    """A `TokenSource`; see `core_source`."""

    def __init__(self, client: EngineCoreClient) -> None:
        self._works = _Works(client)
        self._finalizer = weakref.finalize(self, self._works.ask_for_end)
        self._finalizer.atexit = False

    @property
    def is_available(self) -> bool:
        """See `TokenSource`."""
        return not self._works.is_closed and not self._works.router.is_dead

    def start(self, request: StreamRequest, feed: TokenFeed) -> None:
        """See `TokenSource`."""
        self._works.start(core_request(request), feed)

    def close(self) -> None:
        """See `TokenSource`."""
        self._works.close()


class _Works:
    """The client, its loop, and the live streams. All but `start` and `ask_for_end` runs on the loop."""

    def __init__(self, client: EngineCoreClient) -> None:
        self.is_closed = False
        self._client = client
        self.router = Router()
        self._home = Home()
        self._is_reading = False

    def start(self, request: EngineCoreRequest, feed: TokenFeed) -> None:
        if self.is_closed:
            raise EngineClosedError("the source is closed")
        home, name = self._home, request.request_id
        feed.on_abandon = lambda: home.call_if_alive(self._abandoned, name, feed)
        home.call(self._begin, request, feed)

    def ask_for_end(self) -> None:
        """Takes no lock: it runs in the garbage collector, too."""
        self.is_closed = True
        self._home.call_if_alive(self._end)

    def close(self) -> None:
        self.ask_for_end()
        self._home.close()

    def _begin(self, request: EngineCoreRequest, feed: TokenFeed) -> None:
        self.router.live[request.request_id] = feed
        self._home.start(self._add(request, feed))

    async def _add(self, request: EngineCoreRequest, feed: TokenFeed) -> None:
        name = request.request_id
        try:
            if not feed.abandoned:
                await self._client.add_request_async(request)
        except BaseException as error:
            self.router.live.pop(name, None)
            self.router.is_dead |= is_final(error)
            ended = error if isinstance(error, Exception) else _closed()
            waiter = feed.fail(ended)
            if waiter is not None:
                waiter.wake()
            if not isinstance(error, Exception):
                raise
            return
        if feed.abandoned or self.is_closed:
            await self._abort([name])
        if self.router.live and not self._is_reading:
            self._is_reading = True
            self._home.start(self._read())

    def _abandoned(self, name: str, feed: TokenFeed) -> None:
        if feed.ended is None or name in self.router.live:
            self._home.start(self._abort([name]))

    def _end(self) -> None:
        if self.router.live:
            self._home.start(self._abort(list(self.router.live)))
        self._home.leave()

    async def _abort(self, names: list[str]) -> None:
        feeds = [feed for name in names if (feed := self.router.live.get(name)) is not None]
        wake_all(waiter for feed in feeds if (waiter := feed.close()) is not None)
        await self._client.abort_requests_async(names)

    async def _read(self) -> None:
        router, client = self.router, self._client
        try:
            while router.live:
                try:
                    batch = await client.get_output_async(LOOK)
                except EngineTimeout:
                    continue
                wake_all(router.route(batch, time.monotonic()))
                for output in batch.outputs:
                    feed = router.live.get(output.request_id)
                    if feed is not None and feed.on_full == "block":
                        while feed.must_wait(waiter := LoopWaiter()):
                            await waiter.wait(None)
        except Exception as error:  # noqa: BLE001  # there will be no more outputs, whatever it is
            self.router.is_dead = True
            wake_all(router.fail_all(error))
        except BaseException:  # the loop ends
            wake_all(router.fail_all(_closed()))
            raise
        finally:
            self._is_reading = False


def _closed() -> EngineClosedError:
    return EngineClosedError("the event loop of this stream has ended")
