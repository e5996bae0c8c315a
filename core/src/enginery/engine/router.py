"""From a request to the variants of its model that may serve it, the best first.

Knows: whom to ask for the numbers that `routing` decides by: the plugin for bounds, and a running engine for the
exact number of tokens, where the bounds do not decide. Does not know: leases, or how long anything takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from enginery.engine.catalog import ModelEntry
from enginery.engine.routing import candidates, reply_budget, undecided
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry
from enginery.values import EngineRequest, RunningEngine, TokenEstimate, Variant

__all__ = ["Route", "Router"]

log = logging.getLogger("enginery.manager")


class Route(msgspec.Struct):  # one for each request: a dataclass takes twice as long
    """One request's model and those of its variants that may serve it, the best first.

    Args:
        entry: the model.
        variants: who may serve it; by bounds, so a smaller one of ``undecided`` might do as well.
        request: what is asked.
        able: its variants that came into question.
        undecided: those of them of which only an exact count can say that they fit.
        reply_tokens: the reply's budget.
    """

    entry: ModelEntry
    variants: tuple[Variant, ...]
    request: EngineRequest
    able: tuple[Variant, ...]
    undecided: tuple[Variant, ...] = ()
    reply_tokens: int = 0


class Router:
    """Routes requests, one model's at a time.

    Args:
        registry: the plugins.
        running: the engine that serves a variant, None while there is none.
    """

    def __init__(
        self, registry: PluginRegistry, running: Callable[[Variant], RunningEngine | None]
    ) -> None:
        self._registry = registry
        self._running = running

    def route(
        self, request: EngineRequest, entry: ModelEntry, able: tuple[Variant, ...] = ()
    ) -> Route:
        """By bounds; asks nobody, waits for nothing.

        Args:
            request: what is asked.
            entry: the model.
            able: those of its variants that come into question; none means all.

        Raises:
            ContextLengthExceeded: it fits none.
        """
        able = able or entry.variants
        if len(able) == 1 and able[0].context_length is None:
            return Route(entry, able, request, able)
        hooks = self._registry.hooks(able[0].engine_type)
        estimate = hooks.estimate_tokens(request, able[0])
        budget = reply_budget(request, entry.limits.default_reply_tokens)
        chosen = candidates(able, estimate, budget)
        perhaps = undecided(able, estimate, budget) if len(able) > 1 else ()
        return Route(entry, chosen, request, able, perhaps, budget)

    async def decided(self, route: Route) -> tuple[Variant, ...]:
        """The variants by the exact count, where the bounds left it open and an engine runs that can count.

        For a request that has to wait anyway: a moment's question may save it a swap. An engine that does not
        answer changes nothing.

        Raises:
            ContextLengthExceeded: now that it is known, it fits none.
        """
        for variant in route.undecided:
            engine = self._running(variant)
            if engine is None:
                continue
            hooks = self._registry.hooks(variant.engine_type)
            try:
                exact = await hooks.count_tokens(route.request, engine)
            except EngineryError as error:
                log.debug("%s cannot count: %s", variant.id, error)
                continue
            if exact is not None:
                return candidates(route.able, TokenEstimate(exact, exact), route.reply_tokens)
        return route.variants
