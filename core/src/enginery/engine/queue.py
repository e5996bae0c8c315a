"""Requests that wait for an engine, in groups that want the same. Pure.

Knows: order of arrival, deadlines, who wants which variant. Does not know: instances, or why anybody
waits. Requests for the same candidates form one `Group`, and decisions are made per group: so an event costs
as much as there are models that wait, not as much as there are requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from enginery.engine.seam import QueuedRequest
from enginery.values import Variant

__all__ = ["Group", "RequestQueue"]


@dataclass(slots=True)
class Group:
    """Requests with the same candidates, in order of arrival; never empty while it is in a queue."""

    candidates: tuple[Variant, ...]
    requests: dict[int, QueuedRequest] = field(default_factory=dict)

    @property
    def oldest(self) -> float:
        """When the one that has waited longest arrived."""
        return next(iter(self.requests.values())).arrived

    @property
    def priority(self) -> int:
        """The highest among them."""
        return max(request.priority for request in self.requests.values())

    def wants(self, variant_id: str) -> bool:
        """True when this variant is among the candidates."""
        return any(variant.id == variant_id for variant in self.candidates)

    def rank(self, now: float, max_wait: float) -> tuple[bool, int, float]:
        """Sorts groups: overdue ones first and by age, then the rest by priority and age."""
        if now >= self.oldest + max_wait:
            return (False, 0, self.oldest)
        return (True, -self.priority, self.oldest)


class RequestQueue:
    """The waiting requests."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], Group] = {}
        self._group_of: dict[int, Group] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._group_of)

    def __iter__(self) -> Iterator[QueuedRequest]:
        for group in self._groups.values():
            yield from group.requests.values()

    def add(self, request: QueuedRequest) -> None:
        """Put it last in its group."""
        key = tuple(variant.id for variant in request.candidates)
        group = self._groups.setdefault(key, Group(request.candidates))
        group.requests[request.id] = request
        self._group_of[request.id] = group
        heapq.heappush(self._deadlines, (request.deadline, request.id))

    def remove(self, request_id: int) -> QueuedRequest | None:
        """Take it out; None when it does not wait (any more)."""
        group = self._group_of.pop(request_id, None)
        if group is None:
            return None
        request = group.requests.pop(request_id)
        if not group.requests:
            del self._groups[tuple(variant.id for variant in group.candidates)]
        return request

    def groups(self, now: float, max_wait: float) -> list[Group]:
        """Every group, the one whose turn is next first."""
        return sorted(self._groups.values(), key=lambda group: group.rank(now, max_wait))

    def waiting_for_model(self, model: str) -> int:
        """How many requests wait for a model (by its first candidate)."""
        groups = self._groups.values()
        return sum(len(g.requests) for g in groups if g.candidates[0].model == model)

    def waiting_for(self, variant_id: str) -> int:
        """How many requests this variant could serve."""
        return sum(len(g.requests) for g in self._groups.values() if g.wants(variant_id))

    def wants(self, variant_id: str) -> bool:
        """True when any request could be served by this variant."""
        return any(group.wants(variant_id) for group in self._groups.values())

    def take_for(self, variant_id: str) -> list[QueuedRequest]:
        """Take out every request that this variant can serve, in order of arrival."""
        found = [
            r for g in self._groups.values() if g.wants(variant_id) for r in g.requests.values()
        ]
        found.sort(key=lambda request: (request.arrived, request.id))
        for request in found:
            self.remove(request.id)
        return found

    def take_expired(self, now: float) -> list[QueuedRequest]:
        """Take out every request whose deadline has come."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = self.remove(heapq.heappop(self._deadlines)[1])
            if request is not None:
                found.append(request)
        return found

    def take_all(self) -> list[QueuedRequest]:
        """Take out everything."""
        found = list(self)
        self._groups.clear()
        self._group_of.clear()
        self._deadlines.clear()
        return found

    def next_deadline(self) -> float | None:
        """When the first waiting request gives up."""
        while self._deadlines and self._deadlines[0][1] not in self._group_of:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None
