"""`Lease`: the right to send one request to one engine, in the hands of whoever forwards it.

Knows: how to end once, and whom to tell when the engine goes first. Does not know: why it was
granted. The scheduler counts it as in flight from the grant to the release.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from enginery.engine.client import PluginEngineClient
from enginery.engine.instance import EngineInstance
from enginery.engine.seam import Outcome, Taken
from enginery.errors import EngineryError

__all__ = ["Lease"]


class Lease:
    """One granted request. Release it in a ``finally``, once its upstream connection is closed.

    Attributes:
        variant: what the leased engine runs.
        hooks: its plugin's.
        endpoint: where it listens.
        queue_s: seconds that the request waited for others.
        swap_s: seconds that it waited for this engine to start.
        error: why the engine was taken away, once it was.
        reported: its holder tells the request's end as an event, with more to say than a lease knows.
    """

    __slots__ = (
        *("_client", "_instance", "_new_client", "_on_evict", "_on_release", "endpoint", "error"),
        *("generation", "hooks", "id", "instance", "queue_s", "reported", "request_id", "swap_s"),
        *("__weakref__", "variant"),
    )

    def __init__(
        self,
        request_id: int,
        taken: Taken,
        instance: EngineInstance,
        new_client: Callable[[EngineInstance], PluginEngineClient],
        on_release: Callable[[Lease, Outcome], None],
        queue_s: float = 0.0,
        swap_s: float = 0.0,
    ) -> None:
        assert instance.endpoint is not None
        self.request_id = request_id
        self.id, self.instance, self.generation = taken
        self.queue_s = queue_s
        self.swap_s = swap_s
        self.variant = instance.variant
        self.hooks = instance.hooks
        self.endpoint = instance.endpoint
        self._instance = instance
        self._new_client = new_client
        self._client: PluginEngineClient | None = None
        self.error: EngineryError | None = None
        self.reported = False
        self._on_release: Callable[[Lease, Outcome], None] | None = on_release
        self._on_evict: tuple[Callable[[EngineryError], None], ...] = ()

    @property
    def client(self) -> PluginEngineClient:
        """Talks to the leased engine; made at the first use, since the gateway needs none."""
        if self._client is None:
            self._client = self._new_client(self._instance)
        return self._client

    @property
    def released(self) -> bool:
        """True once `release` was called."""
        return self._on_release is None

    def release(self, outcome: Outcome | str = Outcome.OK) -> None:
        """End the lease; the second call does nothing."""
        tell, self._on_release = self._on_release, None
        self._on_evict = ()
        if tell is not None:
            if self.error is not None:
                outcome = Outcome.EVICTED
            tell(self, outcome if type(outcome) is Outcome else Outcome(outcome))

    def on_evict(self, callback: Callable[[EngineryError], None]) -> None:
        """Call ``callback`` when the engine is taken away before the release; at once if it was."""
        if self.error is not None:
            callback(self.error)
        elif self._on_release is not None:
            self._on_evict += (callback,)

    def evict(self, error: EngineryError) -> None:
        """Called by the manager: the engine is going, or gone."""
        self.error = error
        callbacks, self._on_evict = self._on_evict, ()
        for callback in callbacks:
            callback(error)

    def for_one(self) -> Self:
        """Its client sends one request, and the end of the response ends the lease."""
        self._client = self.client.on_lease(self)
        return self

    def for_many(self) -> Self:
        """Its client sends any number of requests; only `release` ends the lease."""
        self._client = self.client.on_lease(_Shared(self))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release(Outcome.OK if error is None else Outcome.CLIENT_GONE)


class _Shared:
    """A lease in the hands of several requests: none of them ends it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    @property
    def client(self) -> PluginEngineClient:
        return self._lease.client

    @property
    def error(self) -> EngineryError | None:
        return self._lease.error

    def release(self, outcome: Outcome | str = Outcome.OK) -> None:
        """Somebody's request ended; the lease goes on."""

    def on_evict(self, callback: Callable[[EngineryError], None]) -> None:
        """As `Lease.on_evict`."""
        self._lease.on_evict(callback)
