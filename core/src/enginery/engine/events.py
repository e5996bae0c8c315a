"""What happens in the engine room, as one stream of values that anybody may follow.

Knows: numbering, and queues that never grow without bound. Does not know: who listens. Metrics, logs
and pages only subscribe; nobody decides by these events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

__all__ = ["EngineEvent", "EventHub", "Subscription"]

BACKLOG = 1_000
"""Events that a slow listener may be behind; then it loses the oldest, and ``seq`` shows the gap."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """One thing that happened.

    Args:
        seq: counts up by one from 1, over all events of one manager.
        at: seconds since the epoch.
        type: ``request.{queued,granted,first_token,sampled,failed,cancelled,finished}``, ``instance.state``,
            ``load.progress``, ``swap.{begun,finished}``, ``plugin.{broken,blocked}``,
            ``memory.sampled``, ``config.{reloaded,rejected}``.
        model: the model concerned, where there is one.
        variant: the variant's id.
        data: what else the type has to say.
    """

    seq: int
    at: float
    type: str
    model: str | None = None
    variant: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


class Subscription:
    """One listener's events, as an async iterator; dropping it ends it.

    Args:
        only: how the types begin that it wants; none: it wants all.
    """

    def __init__(self, only: tuple[str, ...] = ()) -> None:
        self.only = only
        self._events: deque[EngineEvent] = deque(maxlen=BACKLOG)
        self._news = asyncio.Event()
        self._closed = False

    def put(self, event: EngineEvent | None) -> None:
        """Called by the hub; None is the end."""
        if event is None:
            self._closed = True
        elif self.only and not event.type.startswith(self.only):
            return
        else:
            self._events.append(event)
        self._news.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> EngineEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._events.popleft()


class EventHub:
    """Hands each event to every subscriber; costs nothing when there is none."""

    def __init__(self) -> None:
        self._seq = 0
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._wide: WeakSet[Subscription] = WeakSet()
        """Those of them that want to hear of requests."""
        self._closed = False
        self._heard = False  # by anybody, ever: cheaper to ask than the set

    @property
    def listening(self) -> bool:
        """False when nobody would hear of a single request; True when somebody may."""
        return self._heard and bool(self._wide)

    def publish(self, type_: str, model: str | None, variant: str | None, **data: Any) -> None:
        """Number the event and give it to everybody; who is far behind loses the oldest."""
        self._seq += 1
        if not self._subscriptions:
            return
        event = EngineEvent(self._seq, time.time(), type_, model, variant, data)
        for subscription in list(self._subscriptions):
            subscription.put(event)

    def subscribe(self, *only: str) -> Subscription:
        """Events from this call on, until `close` or until the caller lets go of it.

        Args:
            only: how the types begin that are wanted; none: all.
        """
        subscription = Subscription(only)
        if self._closed:
            subscription.put(None)
        else:
            self._subscriptions.add(subscription)
            if not only or any("request".startswith(word.partition(".")[0]) for word in only):
                self._heard = True
                self._wide.add(subscription)
        return subscription

    def close(self) -> None:
        """End every subscription, once what is in it was read."""
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.put(None)
