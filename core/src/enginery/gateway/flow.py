"""How replies flow while they do, for whoever listens: the first token of each, and once a second the pace of all.

Knows: the events ``request.first_token`` and ``request.sampled``. Does not know: the bytes (`relay`, `body_ends`), or
when a second is over (`watch`). While nobody listens, nothing is measured.

The pace is that of a stream's chunks (its events). Most engines send one for each token; how many tokens it were, the
engine says at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from enginery.engine.inspection import Inspection
from enginery.engine.lease import Lease
from enginery.gateway.relay import Relay
from enginery.values import JSONObject

__all__ = ["Flow"]

LOOKS = 5
"""A pace is the mean over so many looks: of a slow stream one alone sees a chunk or none."""


class Flow:
    """What one gateway tells of the replies that are under way.

    Args:
        inspection: where it is told, if anybody listens there.
        relays: those under way.
    """

    def __init__(self, inspection: Inspection, relays: Collection[Relay]) -> None:
        self._inspection = inspection
        self._relays = relays
        self._marks: dict[Relay, deque[tuple[float, int]]] = {}
        """When each was looked at, and how many of its bytes had come."""

    def first_token(self, lease: Lease, first_byte_s: float) -> None:
        """The first of a stream came, so many seconds after its engine was asked; called for each stream."""
        if self._inspection.listening:
            self._inspection.publish(
                "request.first_token",
                lease.variant.model,
                lease.variant.id,
                request=lease.request_id,
                queue_s=lease.queue_s,
                swap_s=lease.swap_s,
                first_byte_s=first_byte_s,
            )

    def look(self, now: float) -> None:
        """Called once a second, with the relays' time: one event for all that are under way."""
        before, self._marks = self._marks, {}
        if self._relays and self._inspection.listening:
            rows = [self._row(relay, before.get(relay), now) for relay in self._relays]
            self._inspection.publish("request.sampled", None, None, requests=rows)

    def _row(self, relay: Relay, marks: deque[tuple[float, int]] | None, now: float) -> JSONObject:
        lease, progress = relay.lease, relay.progress(now)
        pace = None
        if progress.first_byte_s is not None:
            marks = self._marks[relay] = deque(maxlen=LOOKS) if marks is None else marks
            if marks and progress.chunk_size and now > marks[0][0]:
                at, size = marks[0]
                pace = (progress.size - size) / progress.chunk_size / (now - at)
            marks.append((now, progress.size))
        return {
            "request": lease.request_id,
            "model": lease.variant.model,
            "instance": lease.variant.id,
            "queue_s": lease.queue_s,
            "swap_s": lease.swap_s,
            "first_byte_s": progress.first_byte_s,
            "running_s": progress.running_s,
            "chunks_per_s": pace,
        }
