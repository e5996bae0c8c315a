"""What all streams of an engine came to: counts, rates, and percentiles of the latest.

Knows: ended streams and how many are live. Does not know: engines or readers. Memory is bounded: percentiles are of the
latest thousands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

from enginery.streaming.feed import TokenFeed

__all__ = ["StreamStats", "percentile"]

LATEST = 4096
"""Streams and times between tokens that percentiles are taken of."""


class StreamStats:
    """Told of each stream's beginning and end; any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._live = 0
        self._since = 0.0
        self._busy = 0.0
        self._requests = self._tokens = self._aborted = self._failed = 0
        self._firsts: deque[float] = deque(maxlen=LATEST)
        self._gaps: deque[float] = deque(maxlen=LATEST)

    def began(self) -> None:
        """One more is live."""
        with self._lock:
            if not self._live:
                self._since = self._clock()
            self._live += 1
            self._requests += 1

    def withdrawn(self) -> None:
        """It was refused at once, and does not count."""
        with self._lock:
            self._live -= 1
            self._requests -= 1

    def ended(self, feed: TokenFeed) -> None:
        """One is over."""
        with self._lock:
            self._live -= 1
            if not self._live:
                self._busy += self._clock() - self._since
            self._tokens += feed.completion_tokens or feed.total
            self._aborted += feed.finish_reason == "abort"
            self._failed += feed.error is not None
            self._gaps.extend(feed.gaps)
            if feed.first is not None:
                self._firsts.append(feed.first - feed.started)

    def read(self) -> dict[str, float | None]:
        """See `StreamingEngine.get_stats`."""
        with self._lock:
            busy = self._busy + (self._clock() - self._since if self._live else 0.0)
            firsts, gaps = sorted(self._firsts), sorted(self._gaps)
            found: dict[str, float | None] = {
                "requests": self._requests,
                "active": self._live,
                "aborted": self._aborted,
                "failed": self._failed,
                "tokens": self._tokens,
                "tokens_per_second": self._tokens / busy if busy > 0 and self._tokens else None,
            }
        for name, values in (("ttft", firsts), ("itl", gaps)):
            for share in (50, 90, 99):
                found[f"{name}_p{share}"] = percentile(values, share)
        return found


def percentile(values: Sequence[float], share: int) -> float | None:
    """Of sorted values, by the nearest rank; None where there are none."""
    if not values:
        return None
    return values[max(0, -(-len(values) * share // 100) - 1)]
