"""What there is and whether it is well: ``/v1/models``, ``/health``, ``/livez``, ``/readyz``.

Knows: the catalog and the instances' states. Asks no engine anything, so it answers while engines load,
hang or die.
"""

from __future__ import annotations

import time

from aiohttp import web

from enginery.api.openai import models_list
from enginery.engine.manager import EngineManager
from enginery.errors import EngineryError, ModelNotFound
from enginery.gateway.access import Visitor
from enginery.gateway.answers import json_response
from enginery.gateway.doorway import visitor_of
from enginery.lifecycle import STATES, State
from enginery.values import JSONObject

__all__ = ["ModelRoutes"]

_BEST = ("loaded", "sleeping", "loading", "unloading", "failed", "unloaded")
"""A model is as well as the best of its variants."""


async def _whatever(_: web.Request) -> None:
    """What a GET without a body expects does not matter; aiohttp would refuse in words of its own."""


class ModelRoutes:
    """The routes that tell, and change nothing.

    Args:
        manager: whose models.

    ``draining`` is set when no more requests are taken.
    """

    def __init__(self, manager: EngineManager) -> None:
        self._manager = manager
        self._created = int(time.time())
        self.draining = False
        self._routes = {
            "/v1/models": self.list_models,
            "/health": self.health,
            "/livez": self.alive,
            "/readyz": self.ready,
        }

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        for path, handler in self._routes.items():
            app.router.add_get(path, handler, expect_handler=_whatever)
        app.router.add_get("/v1/models/{model:.+}", self.show_model, expect_handler=_whatever)

    def has(self, path: str) -> bool:
        """Whether a GET of ``path`` is answered here."""
        return path in self._routes or path.startswith("/v1/models/")

    async def list_models(self, request: web.Request) -> web.Response:
        """Every model that this client may ask for, in the settings' order."""
        return json_response(models_list(self._cards(visitor_of(request))))

    async def show_model(self, request: web.Request) -> web.Response:
        """One model, by name or alias."""
        name, visitor = request.match_info["model"], visitor_of(request)
        if visitor.models is None:
            name = self._manager.catalog.resolve(name).name
        for card in self._cards(visitor):
            if name in {card["id"], *card["aliases"]}:
                return json_response(card)
        raise ModelNotFound(f"there is no model {name!r}", param="model")

    async def health(self, _: web.Request) -> web.Response:
        """200 while the gateway takes requests, whatever its engines do."""
        return self._state(ok=not self.draining)

    async def alive(self, _: web.Request) -> web.Response:
        """200 for as long as the process can answer: for a supervisor that restarts it."""
        return self._state(ok=True)

    async def ready(self, _: web.Request) -> web.Response:
        """200 once every model that is to be preloaded has been tried, until the drain begins."""
        return self._state(ok=not self.draining and not self._manager.preloading)

    def _state(self, *, ok: bool) -> web.Response:
        status = "ok" if ok else "draining" if self.draining else "starting"
        return json_response({"status": status}, status=200 if ok else 503)

    def _cards(self, visitor: Visitor) -> list[JSONObject]:
        catalog = self._manager.catalog
        states: dict[str, list[str]] = {}
        for row in self._manager.status():
            states.setdefault(row.model, []).append(STATES[State(row.state)].models)
        cards: list[JSONObject] = []
        for name in catalog.names():
            card: JSONObject = {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "enginery",
                "state": min(states.get(name, ["unloaded"]), key=_BEST.index),
            }
            try:
                entry = catalog.resolve(name)
            except EngineryError as error:
                card.update(state="failed", context_length=None, aliases=[], error=error.message)
            else:
                sizes = [v.context_length for v in entry.variants]
                known = [size for size in sizes if size is not None]
                longest = max(known) if len(known) == len(sizes) else None
                card.update(
                    context_length=longest, max_model_len=longest, aliases=list(entry.aliases)
                )
            if visitor.may_use(name, card["aliases"]):
                cards.append(card)
        return cards
