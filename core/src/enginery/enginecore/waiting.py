"""The queue of requests that wait for their turn, with the order among them.

Knows: ranks, and a heap whose dropped entries leave late. Does not know: blocks, budgets or steps. Pure.

A rank is arrival minus ``aging_s`` times priority, and the lowest goes first: within a priority it is
first come, first served, and one step of priority is worth ``aging_s`` seconds of waiting. Time runs for
all alike, so nobody is overtaken for ever, and no rank ever changes.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

from enginery.enginecore.messages import EngineCoreRequest

__all__ = ["WaitingQueue"]


class _Ranked(Protocol):
    rank: tuple[float, int]

    @property
    def is_finished(self) -> bool: ...


R = TypeVar("R", bound=_Ranked)

_SLACK = 64  # dropped entries that may lie in the heap beside half of it


class WaitingQueue(Generic[R]):
    """Push and pop in O(log n), drop in O(1) on average.

    Args:
        aging_s: seconds of waiting that one step of priority is worth, above 0.
    """

    def __init__(self, aging_s: float) -> None:
        if not aging_s > 0:
            raise ValueError(f"aging_s must be above 0, got {aging_s}")
        self._aging_s = aging_s
        self._heap: list[tuple[tuple[float, int], R]] = []
        self._dropped = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dropped

    def rank(self, request: EngineCoreRequest, now: float) -> tuple[float, int]:
        """The place of a request that arrives now; its own ``arrival_time`` counts unless it lies ahead."""
        self._arrivals += 1
        arrival = min(request.arrival_time, now) if request.arrival_time > 0 else now
        return arrival - request.priority * self._aging_s, self._arrivals

    def push(self, request: R) -> None:
        """Queue a new request, or one that lost its blocks: at its old place."""
        heappush(self._heap, (request.rank, request))

    def head(self) -> R | None:
        """The next one, which stays."""
        while self._heap:
            request = self._heap[0][1]
            if not request.is_finished:
                return request
            heappop(self._heap)
            self._dropped -= 1
        return None

    def pop(self) -> R:
        """Take what `head` showed."""
        return heappop(self._heap)[1]

    def drop_finished(self) -> None:
        """One of the queued requests has just been finished."""
        self._dropped += 1
        if self._dropped > len(self._heap) // 2 + _SLACK:
            self._heap = [entry for entry in self._heap if not entry[1].is_finished]
            heapify(self._heap)
            self._dropped = 0
