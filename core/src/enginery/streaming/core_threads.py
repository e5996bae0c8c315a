"""`ThreadSource`: streams over a client with blocking calls (`InprocClient`, `SyncMPClient`), served by two threads.

Knows: who calls the client. Does not know: outputs and tokens (`core_routing`). One thread reads outputs while there is
a live stream; the other adds and aborts, so that neither `start` nor a finalizer ever waits for the engine, and takes
its orders from a SimpleQueue, which a finalizer may use even in the middle of itself. The threads hold the `_Works` and
never the source: a source that is dropped is closed.
"""

from __future__ import annotations

import threading
import time
import weakref
from queue import SimpleQueue

from enginery.enginecore.client import EngineCoreClient
from enginery.enginecore.messages import EngineCoreRequest
from enginery.errors import EngineClosedError, EngineTimeout
from enginery.streaming.config import StreamRequest
from enginery.streaming.core_routing import Router, core_request, is_final
from enginery.streaming.feed import TokenFeed
from enginery.streaming.waiters import ThreadWaiter, wake_all

__all__ = ["ThreadSource"]

LOOK = 1.0
"""Seconds after which the reader of outputs looks whether it is still wanted."""

END_PATIENCE = 5.0
"""Seconds that the threads have for their end."""


class ThreadSource:
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
    """The client, its two threads, and what they are told."""

    def __init__(self, client: EngineCoreClient) -> None:
        self.is_closed = False
        self._client = client
        self.router = Router()
        self._orders: SimpleQueue[tuple[EngineCoreRequest, TokenFeed] | str | None] = SimpleQueue()
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, request: EngineCoreRequest, feed: TokenFeed) -> None:
        name, orders = request.request_id, self._orders
        feed.on_abandon = lambda: orders.put(name)
        with self._lock:
            if self.is_closed:
                raise EngineClosedError("the source is closed")
            if not self._threads:
                for target in (self._obey, self._read):
                    thread = threading.Thread(
                        target=target, name=f"enginery-stream-{target.__name__[1:]}", daemon=True
                    )
                    thread.start()
                    self._threads.append(thread)
            orders.put((request, feed))

    def ask_for_end(self) -> None:
        """Takes no lock: it runs in the garbage collector, too."""
        self.is_closed = True
        self._orders.put(None)

    def close(self) -> None:
        with self._lock:
            self.ask_for_end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(END_PATIENCE)

    # -- the thread that adds and aborts -------------------------------------------------------------

    def _obey(self) -> None:
        while (order := self._orders.get()) is not None:
            if isinstance(order, str):
                self._abort([order])
            else:
                self._add(*order)
        self._abort(list(self.router.live))
        self._wanted.set()

    def _add(self, request: EngineCoreRequest, feed: TokenFeed) -> None:
        name, live = request.request_id, self.router.live
        if feed.abandoned:
            feed.close()
            return
        live[name] = feed  # before it is added: its first output may be read at once
        try:
            self._client.add_request(request)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this stream's
            live.pop(name, None)
            self.router.is_dead |= is_final(error)
            waiter = feed.fail(error)
            if waiter is not None:
                waiter.wake()
        else:
            self._wanted.set()

    def _abort(self, names: list[str]) -> None:
        feeds = [self.router.live.get(name) for name in names]
        self._client.abort_requests(names)
        wake_all(
            waiter for feed in feeds if feed is not None and (waiter := feed.close()) is not None
        )

    # -- the thread that reads -----------------------------------------------------------------------

    def _read(self) -> None:
        router, client = self.router, self._client
        while True:
            if not router.live:
                self._wanted.clear()
                if not router.live:
                    if self.is_closed:
                        return
                    self._wanted.wait(LOOK)
                    continue
            try:
                batch = client.get_output(LOOK)
            except EngineTimeout:
                continue
            except Exception as error:  # noqa: BLE001  # there will be no more outputs, whatever it is
                self.router.is_dead = True
                wake_all(router.fail_all(error))
                continue
            wake_all(router.route(batch, time.monotonic()))
            for output in batch.outputs:
                feed = router.live.get(output.request_id)
                if feed is not None and feed.on_full == "block":
                    while feed.must_wait(waiter := ThreadWaiter()):
                        waiter.wait(None)
