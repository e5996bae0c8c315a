"""The dashboard's files at ``/ui``: a page that asks ``/api`` for all that it shows.

Knows: which files there are, and what browsers may do with them. Does not know: what the page shows, or who may see it;
the files are the same for everybody, and what they ask for wants a key like anything else. A name in an address is looked
up in a table, and never becomes a path.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import resources

from aiohttp import web

from enginery.errors import EndpointNotSupported, MethodNotAllowed

__all__ = ["CONTENT_SECURITY_POLICY", "Dashboard"]

INDEX = "index.html"

_SCRIPT = "text/javascript; charset=utf-8"
_TYPES = {
    INDEX: "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "api.js": _SCRIPT,
    "app.js": _SCRIPT,
    "dom.js": _SCRIPT,
    "format.js": _SCRIPT,
    "logs.js": _SCRIPT,
    "memory.js": _SCRIPT,
    "models.js": _SCRIPT,
    "playground.js": _SCRIPT,
    "requests.js": _SCRIPT,
    "room.js": _SCRIPT,
    "timeline.js": _SCRIPT,
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",  # after an upgrade the page fits the gateway; the tag spares the bytes
}


class Dashboard:
    """The routes of the page's files, read once."""

    def __init__(self) -> None:
        folder = resources.files("enginery.gateway") / "ui"
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}
        self._tags = {
            name: f'"{sha256(raw).hexdigest()[:16]}"' for name, raw in self._files.items()
        }

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_route("*", "/ui", self.enter)
        app.router.add_route("*", "/ui/{name:.*}", self.file)

    async def enter(self, request: web.Request) -> web.Response:
        """On to ``/ui/``, from which the page's relative addresses count, also behind a proxy's prefix."""
        _only_read(request)
        return web.Response(status=301, headers={**_HEADERS, "Location": "ui/"})

    async def file(self, request: web.Request) -> web.Response:
        """One file; none is named: the page."""
        _only_read(request)
        name = request.match_info["name"] or INDEX
        if name not in self._files:
            raise EndpointNotSupported(f"there is nothing at {request.path}")
        headers = {**_HEADERS, "Content-Type": _TYPES[name], "ETag": self._tags[name]}
        if request.headers.get("If-None-Match") == self._tags[name]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=self._files[name], headers=headers)


def _only_read(request: web.Request) -> None:
    if request.method not in {"GET", "HEAD"}:
        raise MethodNotAllowed(f"{request.path} takes GET, not {request.method}")
