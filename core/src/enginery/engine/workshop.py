"""Where instances and clients are made: from a model's numbers, its plugin and the machine.

Knows: what each of them needs. Decides nothing, and keeps nothing but how far loads are. The `Dispatcher` asks for
what its scheduler wants.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from enginery.engine.attached import AttachedInstance, AttachLauncher
from enginery.engine.catalog import Limits
from enginery.engine.client import PluginEngineClient
from enginery.engine.clock import Clock
from enginery.engine.dispatch import Dispatcher
from enginery.engine.events import EventHub
from enginery.engine.instance import EngineInstance, LoadLimits
from enginery.engine.launchers import Launcher
from enginery.engine.lease import Lease
from enginery.engine.roster import Traits
from enginery.engine.seam import Event
from enginery.engine.transport import HttpTransport
from enginery.errors import PluginError
from enginery.plugins import PluginRegistry
from enginery.values import Endpoint, Health, Memory, RunningEngine, Variant

__all__ = ["Workshop"]

EXAMINATION = 30.0
"""Seconds that an engine which fell silent gets for one token; `first_byte` where that is less."""

log = logging.getLogger("enginery.manager")


class Workshop:
    """One manager's.

    Args:
        registry: the plugins.
        launcher: the machine.
        transport: for health checks and clients.
        clock: seconds.
        hub: gets the progress of loads.
        limits: a model's numbers by its name, as they are now.
        lease: for clients of a server that somebody else runs.
    """

    dispatcher: Dispatcher
    """Set once, by whoever makes both."""

    def __init__(
        self,
        registry: PluginRegistry,
        launcher: Launcher,
        transport: HttpTransport,
        clock: Clock,
        hub: EventHub,
        *,
        limits: Callable[[str], Limits],
        lease: Callable[[Variant], Awaitable[Lease]],
    ) -> None:
        self.load_progress: dict[str, float | None] = {}
        self._registry = registry
        self._launcher = launcher
        self._transport = transport
        self._clock = clock
        self._hub = hub
        self._limits = limits
        self._lease = lease

    def traits(self, variant: Variant) -> Traits:
        """How the scheduler is to treat a variant: from its model's settings and its plugin."""
        if variant.attached:
            return Traits(memory=Memory({}), attached=True)
        limits = self._limits(variant.model)
        try:
            hooks = self._registry.hooks(variant.engine_type)
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

    def instance(
        self, variant: Variant, generation: int, report: Callable[[Event], None]
    ) -> EngineInstance:
        """For one start."""
        limits = self._limits(variant.model)
        before = self.dispatcher.instances.get(variant.id)
        came_back = before is not None and before.failed and not variant.attached
        kind = AttachedInstance if variant.attached else EngineInstance
        return kind(
            variant,
            generation,
            self._registry.hooks(variant.engine_type),
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
            restarts=(0 if before is None else before.restarts) + came_back,
        )

    def client(self, instance: EngineInstance) -> PluginEngineClient:
        """For an instance that is ready."""
        assert instance.endpoint is not None
        assert instance.command is not None
        variant = instance.variant

        async def acquire() -> Lease:
            if variant.attached:  # that loads nothing, and one out of reach is looked at again
                return await self._lease(variant)
            return self.dispatcher.lease_now(variant)

        def current() -> Endpoint | None:
            running = self.dispatcher.serving(variant)
            return None if running is None else running.endpoint

        return PluginEngineClient(
            instance.hooks,
            variant,
            instance.endpoint,
            acquire=acquire,
            transport=self._transport,
            pid=instance.pid,
            health_path=instance.command.health_path,
            reply_tokens=self._limits(variant.model).default_reply_tokens,
            current=None if variant.attached else current,
            failure=lambda: self.dispatcher.failure(variant),
        )

    def running(self, variant: Variant) -> RunningEngine | None:
        """The engine that serves ``variant``, for hooks; None while there is none."""
        instance = self.dispatcher.serving(variant)
        return None if instance is None else self.client(instance).running_engine()

    def _progress(self, variant: Variant, health: Health) -> None:
        self.load_progress[variant.id] = health.progress
        self._hub.publish(
            "load.progress",
            variant.model,
            variant.id,
            progress=health.progress,
            detail=health.detail,
        )
