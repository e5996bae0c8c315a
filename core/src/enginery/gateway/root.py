"""The address itself, ``/``: what a person finds who opens it.

Knows: browsers want the dashboard, everything else a few lines of JSON. Does not know: who may see more; a stranger
without a key (`access` lets one come this far and no further) is not told the version.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from enginery.errors import MethodNotAllowed
from enginery.gateway.access import ROOT_PATH, UI_PATH
from enginery.gateway.answers import json_response, own_version
from enginery.gateway.doorway import visitor_of

__all__ = ["RootRoute", "wants_page"]

_PAGE, _JSON = "text/html", "application/json"

_LINKS = {
    "models": "/v1/models",
    "health": "/health",
    "metrics": "/metrics",
    "dashboard": UI_PATH,
}

_HEADERS = {
    "Cache-Control": "no-store",  # the answer depends on who asks, and on what is accepted
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RootRoute:
    """The route of ``/``."""

    def __init__(self) -> None:
        self._version = own_version()

    def add_to(self, app: web.Application) -> None:
        """Register it."""
        app.router.add_route("*", ROOT_PATH, self.enter)

    async def enter(self, request: web.Request) -> web.Response:
        """On to the dashboard for a browser; else what this is, and where to go on."""
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed(f"{ROOT_PATH} takes GET, not {request.method}")
        if wants_page(request.headers.get("Accept", "")):
            # relative, so it is right behind a proxy's prefix too
            there = f"{UI_PATH.removeprefix('/')}/"
            return web.Response(status=302, headers={**_HEADERS, "Location": there})
        told: dict[str, Any] = {"name": "enginery", "links": _LINKS}
        if not visitor_of(request).is_stranger:
            told["version"] = self._version
        return json_response(told, headers=_HEADERS)


def wants_page(accept: str) -> bool:
    """Whether ``Accept`` asks for a page by its name, and not rather for JSON; ``*/*`` names nothing."""
    asked: dict[str, float] = {}
    for text in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in text.split(";"))
        asked[kind] = max(asked.get(kind, 0.0), _quality(parameters))
    page = asked.get(_PAGE, 0.0)
    return page > 0 and page >= asked.get(_JSON, 0.0)


def _quality(parameters: list[str]) -> float:
    """RFC 9110, 12.4.2; what is no number asks for nothing."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
