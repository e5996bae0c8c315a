"""Everything about a gateway that is counted, measured and shown, put together.

Knows: who is told of what: a finished request goes to the metrics and, where somebody listens, out as an event; an
engine's change of state goes to the metrics. Does not know: numbers (`metrics`), pages (`exposition`, `admin`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from aiohttp import web

from enginery.engine.manager import EngineManager
from enginery.errors import EngineryError
from enginery.gateway.admin import AdminRoutes
from enginery.gateway.exposition import Exposition
from enginery.gateway.flow import Flow
from enginery.gateway.inference import Finished
from enginery.gateway.metrics import CLIENT_GONE, Metrics
from enginery.gateway.relay import Relay
from enginery.gateway.sampling import Sampler
from enginery.values import Variant

__all__ = ["Observation"]


class Observation:
    """One gateway's.

    Args:
        manager: whose engines.
        on_finished: told of each finished request too.
        relays: those under way.
        heartbeat: seconds between two signs of life on a stream of events that is quiet.
    """

    def __init__(
        self,
        manager: EngineManager,
        on_finished: Callable[[Finished], None],
        relays: Collection[Relay],
        *,
        heartbeat: float,
    ) -> None:
        self.metrics = Metrics()
        self._manager = manager
        self._inspection = manager.inspection
        self._on_finished = on_finished
        self.flow = Flow(self._inspection, relays)
        """Told of what comes of each reply, while it does."""
        self._sampler = Sampler(self._inspection, manager.status, self.metrics.late)
        exposition = Exposition(self.metrics, self._inspection, manager.status)
        self._admin = AdminRoutes(manager, exposition, heartbeat=heartbeat)
        self._states = self._inspection.subscribe("instance.")  # from here on: preloads count too
        self._listening: asyncio.Task[None] | None = None

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        self._admin.add_to(app)

    def start(self) -> None:
        """Begin, on the running loop."""
        self._sampler.start()
        self._listening = asyncio.create_task(self._listen(), name="count engines' states")

    def stop(self) -> None:
        """Count no more."""
        self._sampler.stop()
        self._admin.close()
        if self._listening is not None:
            self._listening.cancel()

    def finished(self, done: Finished) -> None:
        """A request is over; called for each."""
        self.metrics.finished(done)
        if self._inspection.listening:
            self._tell(done)
        self._on_finished(done)

    def _tell(self, done: Finished) -> None:
        reply, error, variant = done.reply, done.error, done.variant
        if variant is None:
            if error is not None and not done.model:  # what came further is told where it waited
                told = {"path": done.path, "code": error.code, "status": error.status}
                self._inspection.publish("request.failed", None, None, **told)
            return
        error = error if reply is None else reply.error
        outcome = "client_gone" if reply is None and error is None else "ok"
        status = CLIENT_GONE if reply is None else reply.status
        usage = None if reply is None else reply.usage
        self._inspection.publish(
            "request.finished",
            variant.model,
            variant.id,
            request=done.request,
            path=done.path,
            stream=done.stream,
            outcome=outcome if error is None else "failed",
            status=status if error is None else error.status,
            code=None if error is None else error.code,
            queue_s=done.queue_s,
            swap_s=done.swap_s,
            first_byte_s=None if reply is None else reply.first_byte_s,
            total_s=None if reply is None else reply.total_s,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            completion_tokens=None if usage is None else usage.completion_tokens,
        )

    async def _listen(self) -> None:
        async for event in self._states:
            self.metrics.heard(event, self._variant(event.model, event.variant))

    def _variant(self, model: str | None, variant_id: str | None) -> Variant | None:
        if model is None or variant_id is None:
            return None
        try:
            return self._manager.catalog.resolve(model).variant(variant_id.rpartition("/")[2])
        except EngineryError:  # it is not configured any more
            return None
