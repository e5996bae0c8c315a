"""Where `access` meets aiohttp: a request's head as values, and what browsers are told.

Knows: which headers say who asks, and the answers to CORS. Decides nothing. Pages never get a wildcard, nor
credentials of the browser's own: keys are headers that a page's script must know.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from enginery.gateway.access import PROXY_HEADERS, Access, Asked, Visitor
from enginery.gateway.request_head import CORS

__all__ = ["VISITOR", "enter", "is_allowed_page", "let_read", "visitor_of"]

VISITOR = web.RequestKey("visitor", Visitor)
"""Who asks; set before any handler is called."""

_PAGE = web.RequestKey("page", str)
"""The origin of an allowed page that is not ours."""

PREFLIGHT_AGE = 600
"""Seconds for which a browser remembers what it was told."""

_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_EXPOSED = "x-request-id, retry-after, x-should-retry"


def enter(access: Access, request: web.Request) -> web.Response | None:
    """Let a request in: `VISITOR` and `CORS` are set. A browser's question before it is answered at once.

    Raises:
        AccessDenied, AuthenticationFailed: see `Access.admit`.
    """
    origin = request.headers.get("Origin")
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return _preflight(access.check_page(_host(request), origin), request)
    if origin is not None:
        page = access.check_page(_host(request), origin)
        if page is not None:  # it may read as well why it is turned away
            request[_PAGE] = page
            lines = [f"{name}: {value}\r\n" for name, value in _permission(page).items()]
            request[CORS] = "".join(lines).encode("latin-1")
    request[VISITOR] = access.admit(_asked(request, origin))
    return None


def visitor_of(request: web.Request) -> Visitor:
    """Who asks."""
    return request[VISITOR]


def let_read(request: web.Request, response: web.StreamResponse) -> None:
    """The page that asks may read a reply of ours."""
    page = request.get(_PAGE)
    if page is not None:
        response.headers.update(_permission(page))


def is_allowed_page(request: web.Request) -> bool:
    """Whether a web page asks that is not ours, and that the settings allow."""
    return _PAGE in request


def _permission(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _EXPOSED,
        "Vary": "Origin",
    }


def _preflight(origin: str | None, request: web.Request) -> web.Response:
    response = web.Response(status=204)
    if origin is not None:
        response.headers.update(_permission(origin))
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Max-Age"] = str(PREFLIGHT_AGE)
        wanted = request.headers.get("Access-Control-Request-Headers", "").strip()
        if _TOKENS.fullmatch(wanted):  # clients send many of their own (x-stainless-…)
            response.headers["Access-Control-Allow-Headers"] = wanted
    return response


def _asked(request: web.Request, origin: str | None) -> Asked:
    headers = request.headers
    return Asked(
        request.path,
        _host(request),
        origin,
        headers.get("Authorization"),
        headers.get("x-api-key"),
        local=_is_local(request.remote) and not any(name in headers for name in PROXY_HEADERS),
    )


def _host(request: web.Request) -> str | None:
    """The one ``Host``; None where there are several, or where the request line names another."""
    given = request.headers.getall("Host", [])
    if len(given) != 1:
        return None
    if (
        not request.raw_path.startswith(("/", "*"))
        and urlsplit(request.raw_path).netloc != given[0]
    ):
        return None
    return given[0]


def _is_local(peer: str | None) -> bool:
    if peer is None:
        return False
    try:
        return ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False
