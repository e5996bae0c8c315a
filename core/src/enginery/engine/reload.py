"""From other settings to what they change: checked first, compared with those in force. Pure but for plugins' imports.

Knows: what counts at once and what only at the next start of the process. Does not know: files, engines that run.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginery.engine.catalog import Catalog
from enginery.engine.changes import Changes, Fate, Sketch, sketch, variant_changes
from enginery.engine.policy import SchedulingLimits
from enginery.plugins import PluginRegistry
from enginery.settings import Settings
from enginery.settings.changes import setting_changes

__all__ = ["Plan", "make_plan", "scheduling_limits"]

_AT_THE_START = ("server.host", "server.port", "plugins.")
"""Settings that a running process cannot follow: its address, and the plugins that it may import."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be in force, and what changes with it.

    Args:
        settings: the new ones, but for what counts only at the next start.
        catalog: their models, all checked.
        changes: against those in force.
    """

    settings: Settings
    catalog: Catalog
    changes: Changes

    def preloads(self, before: Catalog) -> list[str]:
        """The models that are to be loaded because they are preloaded now, or differ."""
        old, touched = before.preloads(), self.changes.of(Fate.ADDED, Fate.RESTARTED)
        return [
            name
            for name in self.catalog.preloads()
            if name not in old
            or any(variant.id in touched for variant in self.catalog.resolve(name).variants)
        ]


def make_plan(
    asked: Settings, present: Settings, catalog: Catalog, registry: PluginRegistry
) -> Plan:
    """From what is ``asked`` and what is in force: ``present`` and its ``catalog``.

    Raises:
        ConfigError: what is asked is wrong, one line for each problem.
    """
    Catalog(asked, registry).check_all()
    differing = setting_changes(present, asked)
    later = tuple(c.path for c in differing if c.path.startswith(_AT_THE_START))
    settings = asked.model_copy(
        update={
            "server": asked.server.model_copy(
                update={"host": present.server.host, "port": present.server.port}
            ),
            "plugins": present.plugins,
        }
    )
    new = Catalog(settings, registry)
    new.take_over(catalog)
    old_ones, new_ones = _sketches(catalog, registry), _sketches(new, registry)
    return Plan(settings, new, Changes(differing, variant_changes(old_ones, new_ones), later))


def scheduling_limits(settings: Settings) -> SchedulingLimits:
    """The scheduler's numbers."""
    defaults = settings.defaults
    return SchedulingLimits(
        max_wait=defaults.max_wait,
        min_residency=defaults.min_residency,
        drain_timeout=defaults.drain_timeout,
        max_queue=defaults.max_queue,
        budget=settings.budget,
    )


def _sketches(catalog: Catalog, registry: PluginRegistry) -> dict[str, Sketch]:
    return {id_: sketch(variant, registry) for id_, variant in catalog.variants().items()}
