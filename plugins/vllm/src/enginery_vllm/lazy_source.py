"""`LazySource`: a `TokenSource` whose engine starts with the first request.

Knows: who waits while the engine loads, and who owns it. Does not know: which engine, or how tokens travel (`core_source`).
Loading takes a thread of its own, so that `start` never waits; requests that come meanwhile are kept in their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from enginery import EngineClosedError, EngineryError, EngineStartFailed
from enginery.enginecore import EngineCoreClient
from enginery.streaming import StreamRequest, TokenFeed, TokenSource, core_source
from enginery.streaming.core_routing import core_request
from enginery.streaming.waiters import wake_all

__all__ = ["LazySource"]


class LazySource:
    """A source over a client that is made when it is needed, and shut down with the source.

    Args:
        make: makes the client; called once at most, in a thread. What it raises is every request's error from then on.
        could_start: answers `is_available` as long as nothing has been asked.
    """

    def __init__(
        self, make: Callable[[], EngineCoreClient], could_start: Callable[[], bool]
    ) -> None:
        self._make = make
        self._could_start = could_start
        self._lock = threading.Lock()
        self._waiting: list[tuple[StreamRequest, TokenFeed]] = []
        self._loading = False
        self._client: EngineCoreClient | None = None
        self._source: TokenSource | None = None
        self._failure: Exception | None = None
        self._is_closed = False

    @property
    def is_available(self) -> bool:
        """See `TokenSource`; while it loads, True."""
        with self._lock:
            if self._is_closed or self._failure is not None:
                return False
            if self._source is not None:
                return self._source.is_available
            return self._loading or self._could_start()

    @property
    def is_initialized(self) -> bool:
        """True once the engine is there, until it is closed."""
        with self._lock:
            return self._source is not None

    def preload(self) -> None:
        """Begin to load, if nobody has; returns at once. Raises as `start`."""
        with self._lock:
            self._check()
            self._load_once()

    def start(self, request: StreamRequest, feed: TokenFeed) -> None:
        """See `TokenSource`. A request that is abandoned before the engine is there never gets to it."""
        core_request(request)  # wrong parameters are refused at once, not after the model is loaded
        with self._lock:
            self._check()
            source = self._source
            if source is None:
                self._waiting.append((request, feed))
                self._load_once()
                return
        source.start(request, feed)

    def close(self) -> None:
        """See `TokenSource`. An engine that is still loading ends as soon as it can."""
        with self._lock:
            self._is_closed = True
            waiting, self._waiting = self._waiting, []
            source, self._source = self._source, None
            client, self._client = self._client, None
        wake_all(waiter for _, feed in waiting if (waiter := feed.close()) is not None)
        if source is not None:
            source.close()
        if client is not None:
            client.shutdown()

    # -- inside --------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_closed:
            raise EngineClosedError("the source is closed")
        if self._failure is not None:
            raise _again(self._failure)

    def _load_once(self) -> None:
        if not self._loading and self._source is None:
            self._loading = True
            threading.Thread(target=self._load, name="enginery-stream-load", daemon=True).start()

    def _load(self) -> None:
        try:
            client = self._make()
        except (Exception, SystemExit) as raised:  # noqa: BLE001  # whatever it is, those who wait are told
            error = raised if isinstance(raised, Exception) else _failed(raised)
            with self._lock:
                self._loading, self._failure = False, error
                waiting, self._waiting = self._waiting, []
            failed = [feed.fail(_again(error)) for _, feed in waiting]
            wake_all(waiter for waiter in failed if waiter is not None)
            return
        with self._lock:
            self._loading = False
            closed = self._is_closed
            if not closed:
                self._client = client
                self._source = core_source(client)
                for request, feed in self._waiting:  # in the lock: nobody gets ahead of them
                    self._source.start(request, feed)
                self._waiting.clear()
        if closed:
            client.shutdown()


def _failed(end: SystemExit) -> EngineStartFailed:
    """A model's own code may end a program; a thread would only end itself, without a word."""
    return EngineStartFailed(f"what it loads wanted to end the program: {end!r}")


def _again(error: Exception) -> Exception:
    return error.again() if isinstance(error, EngineryError) else error
