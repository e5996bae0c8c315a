"""A client's request head: what of it goes on, and the id that it gets.

Knows: the short list of headers that engines see. Whatever is not on it does not pass: no cookie, no
credential, nothing that a proxy before us added.
"""

from __future__ import annotations

import itertools
import re
import secrets

from aiohttp import web

__all__ = ["CORS", "PASSED", "REQUEST_ID", "new_request_id", "request_id_of"]

PASSED = (b"accept", b"traceparent")
"""Besides Content-Type and x-request-id, which we write ourselves."""

REQUEST_ID = web.RequestKey("request_id", str)
"""A request's id; each has one."""

CORS = web.RequestKey("cors", bytes)
"""Lines that its reply's head gets for browsers."""

_ID = re.compile(r"[!-~]{1,128}\Z")
_RUN = secrets.token_hex(6)
_PREFIX = f"req-{_RUN}-".encode()
_COUNT = itertools.count(1)


def request_id_of(given: str | None) -> str:
    """The client's own id where it is one, else a new one: unique, and in order within this process."""
    if given and _ID.match(given):
        return given
    return new_request_id().decode()


def new_request_id() -> bytes:
    """Unique, and in order within this process."""
    return b"%b%x" % (_PREFIX, next(_COUNT))
