"""`EngineManager`: the public way to engines.

Knows: models, how a request finds its variants, what a client is made of. Decides nothing about
engines: that is the scheduler's, reached through the `Dispatcher`. Library use touches no signal
handler, no event-loop policy, and never waits for children that are not its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self

from enginery.engine.attached import AttachedInstance, AttachLauncher
from enginery.engine.catalog import Catalog, ModelEntry
from enginery.engine.client import EngineClient, PluginEngineClient
from enginery.engine.clock import Clock, LoopClock
from enginery.engine.dispatch import Dispatcher
from enginery.engine.events import EngineEvent, EventHub
from enginery.engine.inspection import Inspection
from enginery.engine.instance import EngineInstance, LoadLimits
from enginery.engine.launchers import Launcher, LocalLauncher
from enginery.engine.lease import Lease
from enginery.engine.roster import Traits
from enginery.engine.router import Route, Router
from enginery.engine.scheduler import EngineScheduler, SchedulingLimits
from enginery.engine.seam import Event, Suspected, Unhealthy
from enginery.engine.status import InstanceStatus, status_row
from enginery.engine.transport import HttpTransport
from enginery.errors import ConfigError, EngineLeaked, EngineryError, PluginError
from enginery.lifecycle import State
from enginery.plugins import PluginRegistry, PluginRow, PluginState
from enginery.settings import Settings
from enginery.values import Endpoint, EngineRequest, Health, Memory, RunningEngine, Variant

__all__ = ["EngineManager", "InstanceStatus", "Route"]

PROBE_AFTER = (0.0, 0.25, 1.0)
LAST_RESORT = 10.0
EXAMINATION = 30.0
"""Seconds that an engine which fell silent gets for one token; `first_byte` where that is less."""

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
        defaults = self.settings.defaults
        scheduler = EngineScheduler(
            SchedulingLimits(
                max_wait=defaults.max_wait,
                min_residency=defaults.min_residency,
                drain_timeout=defaults.drain_timeout,
                max_queue=defaults.max_queue,
                budget=self.settings.budget,
            ),
            self._traits,
        )
        self._owned: LocalLauncher | None = None
        if launchers:
            self._launcher: Launcher = launchers[0]
        else:
            self._launcher = self._owned = LocalLauncher()
        self._clock = clock or LoopClock()
        self._transport = HttpTransport()
        self._hub = EventHub()
        self._load_progress: dict[str, float | None] = {}
        self._router = Router(self.registry, self._running)
        self._preloading: set[asyncio.Task[None]] = set()
        self._dispatcher = Dispatcher(
            scheduler,
            self._clock,
            self._hub,
            new_instance=self._new_instance,
            new_client=self._new_client,
        )
        self.inspection = Inspection(
            self._dispatcher,
            self._hub,
            self._launcher,
            lambda instance: self._new_client(instance).running_engine(),
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
            task = asyncio.create_task(self._preload(model), name=f"preload {model}")
            self._preloading.add(task)
            task.add_done_callback(self._preloading.discard)
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
        return self._dispatcher.try_lease(route.variants, priority=route.entry.limits.priority)

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
                return self._new_client(dispatcher.instances[view.variant.id])
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
        return bool(self._preloading)

    def load_progress(self, variant_id: str) -> float | None:
        """How much of its load a starting engine has behind it, 0 to 1, where it says so."""
        return self._load_progress.get(variant_id)

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
        stops = [self.catalog.resolve(row.model).limits.stop_timeout for row in self.status()]
        patience = defaults.shutdown_timeout + max(stops, default=0.0) + LAST_RESORT
        left = await self._dispatcher.shut_down(defaults.shutdown_timeout, patience)
        if self._preloading:
            await asyncio.wait(self._preloading)
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
        return await self._dispatcher.lease(
            wanted, priority=entry.limits.priority, queue_timeout=timeout, asked=asked
        )

    def _traits(self, variant: Variant) -> Traits:
        """How the scheduler is to treat a variant: from its model's settings and its plugin."""
        if variant.attached:
            return Traits(memory=Memory({}), attached=True)
        limits = self.catalog.resolve(variant.model).limits
        hooks = self.registry.hooks(variant.engine_type)
        try:
            memory = hooks.estimate_memory(variant)
            can_sleep = limits.sleep_level in hooks.sleep_levels(variant)
        except PluginError as error:  # the scheduler never fails: what nobody knows is unknown
            log.warning("%s", error)
            memory, can_sleep = None, False
        return Traits(
            memory=memory,
            ttl=limits.ttl or None,
            pin=limits.pin,
            sleep_level=limits.sleep_level if can_sleep and limits.sleep_level else None,
            sleep_after=limits.sleep_after or None,
        )

    async def _preload(self, model: str) -> None:
        try:
            await self.load(model)
        except EngineryError as error:
            log.error("preload of %s failed: %s", model, error)  # noqa: TRY400  # the user's, no trace

    async def _is_well(self, client: EngineClient) -> bool:
        for pause in PROBE_AFTER:
            await self._clock.sleep(pause)
            if self._dispatcher.serving(client.variant) is None:
                return False  # its end was seen meanwhile
            if await client.check_health():
                return True
        return False

    def _new_instance(
        self, variant: Variant, generation: int, report: Callable[[Event], None]
    ) -> EngineInstance:
        limits = self.catalog.resolve(variant.model).limits
        kind = AttachedInstance if variant.attached else EngineInstance
        return kind(
            variant,
            generation,
            self.registry.hooks(variant.engine_type),
            AttachLauncher() if variant.attached else self._launcher,
            transport=self._transport,
            clock=self._clock,
            limits=LoadLimits(
                limits.load_stall,
                limits.load_cap,
                limits.stop_timeout,
                min(EXAMINATION, limits.first_byte),
            ),
            report=report,
            on_progress=partial(self._progress, variant),
        )

    def _new_client(self, instance: EngineInstance) -> PluginEngineClient:
        assert instance.endpoint is not None
        assert instance.command is not None
        variant = instance.variant

        async def acquire() -> Lease:
            if variant.attached:  # that loads nothing, and one out of reach is looked at again
                return await self._lease(
                    (variant,), self.catalog.resolve(variant.model), asked=False
                )
            return self._dispatcher.lease_now(variant)

        def current() -> Endpoint | None:
            running = self._dispatcher.serving(variant)
            return None if running is None else running.endpoint

        return PluginEngineClient(
            instance.hooks,
            variant,
            instance.endpoint,
            acquire=acquire,
            transport=self._transport,
            pid=instance.pid,
            health_path=instance.command.health_path,
            reply_tokens=self.catalog.resolve(variant.model).limits.default_reply_tokens,
            current=None if variant.attached else current,
            failure=lambda: self._dispatcher.failure(variant),
        )

    def _running(self, variant: Variant) -> RunningEngine | None:
        instance = self._dispatcher.serving(variant)
        return None if instance is None else self._new_client(instance).running_engine()

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

    def _progress(self, variant: Variant, health: Health) -> None:
        self._load_progress[variant.id] = health.progress
        self._hub.publish(
            "load.progress",
            variant.model,
            variant.id,
            progress=health.progress,
            detail=health.detail,
        )
