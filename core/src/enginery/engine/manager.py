"""`EngineManager`: the public way to engines.

Knows: models, how a request finds its variants, what a client is made of. Decides nothing about
engines: that is the scheduler's, reached through the `Dispatcher`. Library use touches no signal
handler, no event-loop policy, and never waits for children that are not its own.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

from enginery.engine.catalog import Catalog, ModelEntry
from enginery.engine.changes import Changes, Fate
from enginery.engine.client import EngineClient
from enginery.engine.clock import Clock, LoopClock
from enginery.engine.dispatch import Dispatcher
from enginery.engine.events import EngineEvent, EventHub
from enginery.engine.inspection import Inspection
from enginery.engine.launchers import Launcher, LocalLauncher
from enginery.engine.lease import Lease
from enginery.engine.preloads import Preloads
from enginery.engine.reload import make_plan, scheduling_limits
from enginery.engine.router import Route, Router
from enginery.engine.scheduler import EngineScheduler
from enginery.engine.seam import Reconfigured, Suspected, Unhealthy
from enginery.engine.status import InstanceStatus, status_row
from enginery.engine.transport import HttpTransport
from enginery.engine.workshop import Workshop
from enginery.errors import ConfigError, EngineLeaked, ShuttingDown
from enginery.lifecycle import State
from enginery.plugins import PluginRegistry, PluginRow, PluginState
from enginery.settings import Settings
from enginery.values import EngineRequest, Variant

__all__ = ["EngineManager", "InstanceStatus", "Route"]

PROBE_AFTER = (0.0, 0.25, 1.0)
LAST_RESORT = 10.0

_RUNS = frozenset({State.STARTING, State.READY, State.WAKING})
"""An engine in one of these is used, or about to be."""

log = logging.getLogger("enginery.manager")


class EngineManager:
    """Starts, swaps and stops engines, and hands out clients for them.

    Use it as an async context manager, on one event loop::

        async with EngineManager(settings) as manager:
            client = await manager.ensure_engine("qwen3-8b")

    Args:
        settings: models and defaults; none knows no models, which `ensure_engine` can still be given.
        launchers: machines to run on; default: this one. (One, for now.)
        clock: seconds; default: the running loop's.
        registry: the plugins; default: those installed, by the settings' allow and deny lists.
    """

    _application: ClassVar[EngineManager | None] = None

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        launchers: Sequence[Launcher] | None = None,
        clock: Clock | None = None,
        registry: PluginRegistry | None = None,
    ) -> None:
        self.settings = settings or Settings()
        plugins = self.settings.plugins
        self.registry = registry or PluginRegistry(plugins.allow, plugins.deny)
        self.catalog = Catalog(self.settings, self.registry)
        self._owned: LocalLauncher | None = None
        if launchers:
            self._launcher: Launcher = launchers[0]
        else:
            self._launcher = self._owned = LocalLauncher()
        self._clock = clock or LoopClock()
        self._transport = HttpTransport()
        self._hub = EventHub()
        self._workshop = workshop = Workshop(
            self.registry,
            self._launcher,
            self._transport,
            self._clock,
            self._hub,
            limits=lambda model: self.catalog.limits(model),  # noqa: PLW0108  # `apply` replaces it
            lease=lambda variant: self._lease(
                (variant,), self.catalog.resolve(variant.model), asked=False
            ),
        )
        self._running = workshop.running
        self._router = Router(self.registry, self._running)
        self._preloads = Preloads(self.load)
        self._dispatcher = workshop.dispatcher = Dispatcher(
            EngineScheduler(scheduling_limits(self.settings), workshop.traits),
            self._clock,
            self._hub,
            new_instance=workshop.instance,
            new_client=workshop.client,
        )
        self.inspection = Inspection(
            self._dispatcher,
            self._hub,
            self._launcher,
            lambda instance: workshop.client(instance).running_engine(),
        )
        """What can be seen from outside, for pages, metrics and logs."""
        self.registry.on_trouble = self._plugin_trouble

    # -- the application's one -----------------------------------------------------------------

    @classmethod
    def get_instance(cls, settings: Settings | None = None) -> EngineManager:
        """The application's one manager, made at the first call and again after its shutdown.

        Raises:
            ConfigError: it exists with other settings.
        """
        one = cls._application
        if one is None or one.closed:
            one = cls._application = cls(settings)
        elif settings is not None and settings != one.settings:
            raise ConfigError(
                "this application's EngineManager exists with other settings; shut it down first, "
                "or make an EngineManager of your own"
            )
        return one

    @property
    def closed(self) -> bool:
        """True once `shutdown` is done."""
        return self._dispatcher.closed

    async def __aenter__(self) -> Self:
        for row in self.registry.rows(load=False):
            if row.state is PluginState.BLOCKED:
                self._plugin_trouble(row)
        for model in self.catalog.preloads():
            self._preloads.begin(model)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    # -- getting an engine ---------------------------------------------------------------------

    async def ensure_engine(
        self,
        model_name: str,
        variant_config: Mapping[str, Any] | Variant | None = None,
        engine_type: str | None = None,
    ) -> EngineClient:
        """A client for the model's engine, which is running when this returns.

        Another resident engine is drained and stopped first. An engine that is ready is asked for its
        health, and restarted when three probes, over a second, fail and nobody uses it; one that is in use is
        left alone, whatever it says. The client holds no lease: each
        `forward_request` takes one, or raises `EngineEvicted` once the engine made room.

        Args:
            model_name: a model of the settings, an alias, or any name together with the next two.
            variant_config: how to run it: ``binary``, ``args``, ``url``, ``context_length`` and so on;
                every other key is one of the plugin's options.
            engine_type: the plugin; default: ``defaults.engine``.

        Raises:
            ModelNotFound: an unknown name without a configuration.
            ConfigError: the configuration is wrong; the message names the field.
            EngineStartFailed: it cannot be started, with its last log lines.
            EngineTimeout: it did not become ready in time; also a `TimeoutError`.
            ShuttingDown: the manager is closed.
        """
        wanted, entry = self._variants(model_name, variant_config, engine_type)
        while True:
            lease = await self._lease(wanted, entry)
            client, instance, generation = lease.client, lease.instance, lease.generation
            try:
                if lease.swap_s > 0 or await self._is_well(client):
                    return client
            finally:
                lease.release()
            self._dispatcher.tell(Unhealthy(instance, generation))
            running = self._dispatcher.serving(client.variant)
            if running is not None and running.generation == generation:
                log.warning("%s fails its health check, but is in use: left alone", instance)
                return client
            log.warning("%s fails its health check: restarted", instance)
            one = self._dispatcher.instances[instance]
            one.failed = one.failed or one.generation == generation

    @asynccontextmanager
    async def hold(
        self,
        model_name: str,
        variant_config: Mapping[str, Any] | Variant | None = None,
        engine_type: str | None = None,
    ) -> AsyncIterator[EngineClient]:
        """As `ensure_engine`, with the engine leased, so not swapped, while inside.

        A holder that keeps others waiting longer than ``max_wait`` and ``drain_timeout`` is evicted all
        the same.
        """
        wanted, entry = self._variants(model_name, variant_config, engine_type)
        lease = await self._lease(wanted, entry)
        try:
            yield lease.for_many().client
        finally:
            lease.release()

    async def acquire(self, request: EngineRequest, model_name: str) -> Lease:
        """The lease for one request, on the model's smallest variant that fits; waits its turn.

        ``lease.client`` sends that request and ends the lease with its response; or release it yourself::

            async with await manager.acquire(request, "qwen3-8b") as lease:
                response = await lease.client.forward_request(session, request.path, request.body)

        Raises:
            ModelNotFound, ContextLengthExceeded, QueueFull, EngineBusy, EngineStartFailed,
            EngineTimeout, ShuttingDown: see each.
        """
        route = self.route(request, self.catalog.resolve(model_name))
        return (await self.lease(route)).for_one()

    def route(
        self, request: EngineRequest, entry: ModelEntry, able: tuple[Variant, ...] = ()
    ) -> Route:
        """Which variants may serve the request, the best first; see `Router.route`."""
        return self._router.route(request, entry, able)

    def try_lease(self, route: Route) -> Lease | None:
        """A lease in this very call, where a fitting engine is ready and has room; else None."""
        return self._dispatcher.try_lease(route.variants)

    async def lease(self, route: Route) -> Lease:
        """As `acquire`, for a request that was routed; the lease is released by the caller.

        Where bounds did not decide between variants, a running one's tokenizer is asked first.
        """
        wanted = await self._router.decided(route) if route.undecided else route.variants
        return await self._lease(wanted, route.entry, asked=False)

    def get_current_client(self) -> EngineClient | None:
        """A client for the engine that was granted last, if it still serves."""
        dispatcher = self._dispatcher
        for view in dispatcher.scheduler.instances():
            if view.variant.id == dispatcher.last_granted and view.state is State.READY:
                return self._workshop.client(dispatcher.instances[view.variant.id])
        return None

    def suspect(self, lease: Lease) -> None:
        """The leased engine fell silent in the middle of a request: see whether it still generates.

        It gets no new lease before it has generated one token; if it does not, it is restarted.
        """
        self._dispatcher.tell(Suspected(lease.instance, lease.generation))

    # -- loading and unloading -----------------------------------------------------------------

    async def load(self, model: str, variant: str | None = None) -> None:
        """Make the model's engine ready; raises what `ensure_engine` raises."""
        entry = self.catalog.resolve(model)
        wanted = entry.variants if variant is None else (entry.variant(variant),)
        (await self._lease(wanted, entry)).release()

    async def unload(self, model: str, variant: str | None = None, *, drain: bool = True) -> None:
        """Stop the model's engines, or one of them; ``drain`` False evicts its open requests at once.

        Raises:
            ModelNotFound: no such model.
            EngineLeaked: something of it is left.
        """
        entry = self.catalog.resolve(model)
        wanted = entry.variants if variant is None else (entry.variant(variant),)
        instances = tuple(one.id for one in wanted)
        await self._dispatcher.unload(instances, drain=drain)

    # -- other settings ------------------------------------------------------------------------

    def plan(self, settings: Settings) -> Changes:
        """What `apply` would change; nothing is.

        Raises:
            ConfigError: the settings are wrong, one line for each problem.
        """
        return make_plan(settings, self.settings, self.catalog, self.registry).changes

    def apply(self, settings: Settings) -> Changes:
        """Live by other settings from now on: by all of them, in this very call, or by none where they are wrong.

        Engines whose variant is started otherwise now, or is there no more, drain and stop; of those that ran,
        the former are started again at once. All others go on. Who waits keeps waiting. What a process
        cannot change while it runs (`Changes.later`) stays as it is.

        Raises:
            ConfigError: the settings are wrong; nothing has changed.
            ShuttingDown: it is too late.
        """
        if self._dispatcher.closing:
            raise ShuttingDown("the manager is shutting down")
        plan = make_plan(settings, self.settings, self.catalog, self.registry)
        restarted = plan.changes.of(Fate.RESTARTED)
        ran = [row for row in self.status() if row.id in restarted and State(row.state) in _RUNS]
        preloads = plan.preloads(self.catalog)
        self.settings, self.catalog = plan.settings, plan.catalog
        self._dispatcher.reconfigure(
            Reconfigured(scheduling_limits(plan.settings), plan.catalog.variants(), restarted)
        )
        for row in ran:
            self._preloads.begin_again(row.model, row.variant)
        for model in preloads:
            if model not in {row.model for row in ran}:
                self._preloads.begin_again(model)
        return plan.changes

    # -- what there is -------------------------------------------------------------------------

    def status(self) -> list[InstanceStatus]:
        """One row for each instance that was ever started."""
        dispatcher, now = self._dispatcher, self._clock.now()
        return [
            status_row(view, dispatcher.instances.get(view.variant.id), now)
            for view in dispatcher.scheduler.instances()
        ]

    @property
    def preloading(self) -> bool:
        """True while a model that is to be loaded at the start has not been tried."""
        return self._preloads.pending

    def load_progress(self, variant_id: str) -> float | None:
        """How much of its load a starting engine has behind it, 0 to 1, where it says so."""
        return self._workshop.load_progress.get(variant_id)

    def log_tail(self, model: str, n: int = 100) -> list[str]:
        """The last lines that the model's latest engine printed."""
        for variant in self.catalog.resolve(model).variants:
            if variant.id in self._dispatcher.instances:
                return self._dispatcher.instances[variant.id].log_tail(n)
        return []

    def subscribe(self) -> AsyncIterator[EngineEvent]:
        """Every event from this call on, until `shutdown`."""
        return self._hub.subscribe()

    async def shutdown(self) -> None:
        """Refuse new requests, drain for ``shutdown_timeout`` seconds, stop every engine.

        Idempotent. Returns when every process is gone.

        Raises:
            EngineLeaked: all was done, but processes are left, which the message names. Leaving the
                context manager raises it too, in place of what ended its body.
        """
        defaults = self.settings.defaults
        stops = [self.catalog.limits(row.model).stop_timeout for row in self.status()]
        patience = defaults.shutdown_timeout + max(stops, default=0.0) + LAST_RESORT
        left = await self._dispatcher.shut_down(defaults.shutdown_timeout, patience)
        await self._preloads.ended()
        self._hub.close()
        await self._transport.close()
        if self._owned is not None:
            self._owned.close()
        if left:
            rows = [status_row(v, self._dispatcher.instances.get(v.variant.id), 0.0) for v in left]
            names = ", ".join(f"{row.id} (pid {row.pid}, {row.state})" for row in rows)
            raise EngineLeaked(f"shutdown is incomplete, these engines are left: {names}")

    # -- inside -------------------------------------------------------------------------------

    def _variants(
        self,
        model_name: str,
        config: Mapping[str, Any] | Variant | None,
        engine_type: str | None,
    ) -> tuple[tuple[Variant, ...], ModelEntry]:
        if config is None and engine_type is None:
            entry = self.catalog.resolve(model_name)
            return entry.variants, entry
        variant = self.catalog.register(model_name, config, engine_type)
        return (variant,), self.catalog.resolve(model_name)

    async def _lease(
        self, wanted: tuple[Variant, ...], entry: ModelEntry, *, asked: bool = True
    ) -> Lease:
        timeout = self.settings.defaults.queue_timeout
        present = self.catalog.resolve(entry.name)
        if present is not entry:  # other settings came since it was routed
            ids = {variant.id for variant in wanted}
            wanted = tuple(v for v in present.variants if v.id in ids) or present.variants
        return await self._dispatcher.lease(
            wanted, priority=present.limits.priority, queue_timeout=timeout, asked=asked
        )

    async def _is_well(self, client: EngineClient) -> bool:
        for pause in PROBE_AFTER:
            await self._clock.sleep(pause)
            if self._dispatcher.serving(client.variant) is None:
                return False  # its end was seen meanwhile
            if await client.check_health():
                return True
        return False

    def _plugin_trouble(self, row: PluginRow) -> None:
        kind = "blocked" if row.state is PluginState.BLOCKED else "broken"
        self._hub.publish(
            f"plugin.{kind}",
            None,
            None,
            engine=row.engine_type,
            distribution=row.distribution,
            state=str(row.state),
            reason=row.reason,
        )
