"""llama-swap's own routes, for its clients: ``/running``, ``/unload`` and ``/upstream/MODEL/…``.

Knows: their shapes. Does not know: how a request goes through (`passthrough`), or who may ask (`access`: ``/unload``
is an admin's). Web pages of others may not ask either, and an image's address brings no ``Origin``: what browsers
say of themselves (``Sec-Fetch-Site``) is heeded where asking changes something.

Source: llama-swap, ``internal/server/api.go``.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from aiohttp import web

from enginery.engine.manager import EngineManager
from enginery.engine.status import InstanceStatus
from enginery.errors import AccessDenied, EngineLeaked, MethodNotAllowed, UnsupportedOperation
from enginery.gateway.answers import json_response
from enginery.gateway.doorway import is_allowed_page, visitor_of
from enginery.gateway.inference import Inference
from enginery.gateway.passthrough import Passage
from enginery.lifecycle import State
from enginery.values import EngineRequest, JSONObject

__all__ = ["CompatRoutes"]

_STATES = {
    State.STARTING: "starting",
    State.READY: "ready",
    State.DRAINING: "stopping",
    State.GOING_TO_SLEEP: "stopping",
    State.ASLEEP: "ready",
    State.WAKING: "starting",
    State.STOPPING: "stopping",
    State.LEAKED: "shutdown",
}
"""llama-swap's words; what is not in here has no process."""

_BEST = ("ready", "starting", "stopping", "shutdown")

_LONGEST_NAME = 200


class CompatRoutes:
    """llama-swap's routes.

    Args:
        manager: whose models.
        inference: says which models a visitor may use.
        body_limit: says how many bytes a body may have.
    """

    def __init__(
        self, manager: EngineManager, inference: Inference, body_limit: Callable[[], int]
    ) -> None:
        self._manager = manager
        self._inference = inference
        self._body_limit = body_limit

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_route("*", "/running", self.running)
        app.router.add_route("*", "/unload", self.unload)
        app.router.add_route("*", "/upstream/{way:.+}", self.upstream)

    async def running(self, request: web.Request) -> web.Response:
        """The models that have a process, by name; one entry each, the best of its variants."""
        _only(request, "GET", "HEAD")
        visitor, catalog = visitor_of(request), self._manager.catalog
        found: dict[str, JSONObject] = {}
        for row in self._manager.status():
            state = _STATES.get(State(row.state))
            entry = catalog.resolve(row.model) if row.model in catalog.names() else None
            if state is None or entry is None or not visitor.may_use(entry.name, entry.aliases):
                continue
            known = found.get(row.model)
            if known is None or _BEST.index(state) < _BEST.index(str(known["state"])):
                found[row.model] = _shown(row, state, entry.limits.ttl)
        return json_response({"running": [found[name] for name in sorted(found)]})

    async def unload(self, request: web.Request) -> web.Response:
        """Stop every engine, once its open requests have had ``drain_timeout``."""
        _only(request, "GET", "POST")
        _not_from_elsewhere(request)
        left = []
        for name in dict.fromkeys(row.model for row in self._manager.status()):
            try:
                await self._manager.unload(name)
            except EngineLeaked as error:  # the others are stopped all the same
                left.append(error.message)
        if left:
            raise EngineLeaked("; ".join(left))
        return web.Response(text="OK")

    async def upstream(self, request: web.Request) -> web.StreamResponse:
        """Whatever is asked, of the model's engine itself; it is loaded first."""
        _not_from_elsewhere(request)
        if "Upgrade" in request.headers:
            raise UnsupportedOperation("websockets are not relayed")
        name, rest = self._split(request.rel_url.raw_path.removeprefix("/upstream/"))
        query = request.rel_url.raw_query_string
        tail = f"?{query}" if query else ""
        self._inference.check_allowed(visitor_of(request), name)
        if rest is None:  # relative addresses of the engine's pages count from here
            moved = 301 if request.method in {"GET", "HEAD"} else 308
            there = f"{request.rel_url.raw_path}/{tail}"
            return web.Response(status=moved, headers={"Location": there})
        entry = self._manager.catalog.resolve(name)
        route = self._manager.route(EngineRequest(f"/{rest}", {}), entry)
        lease = self._manager.try_lease(route) or await self._manager.lease(route)
        passage = Passage(request, lease, entry.limits, body_limit=self._body_limit())
        return await passage.take(f"/{rest}{tail}")

    def _split(self, way: str) -> tuple[str, str | None]:
        """The model in a percent-encoded path, and what comes after it; a name may have slashes.

        The longest name wins. None: nothing comes after it, not even a slash. Where no name is known, the
        first part counts.
        """
        known = {
            *self._manager.catalog.names(),
            *(a for model in self._manager.settings.models.values() for a in model.aliases),
        }
        parts = way.split("/")
        found, after = unquote(parts[0]), 1
        for end in range(1, len(parts) + 1):
            name = unquote("/".join(parts[:end]))
            if len(name) > _LONGEST_NAME:
                break
            if name in known:
                found, after = name, end
        return found, "/".join(parts[after:]) if after < len(parts) else None


def _shown(row: InstanceStatus, state: str, ttl: float) -> JSONObject:
    """One entry; command lines are not shown, they may hold secrets."""
    return {
        "model": row.model,
        "state": state,
        "cmd": "",
        "proxy": "" if row.address is None else f"http://{row.address}",
        "ttl": int(ttl),
        "name": "",
        "description": "",
    }


def _only(request: web.Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(f"{request.path} takes {' or '.join(methods)}, not {request.method}")


def _not_from_elsewhere(request: web.Request) -> None:
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in {"none", "same-origin"} and not is_allowed_page(request):
        raise AccessDenied("other sites' pages may not ask this", code="forbidden_origin")
