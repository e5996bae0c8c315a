"""A client's request head: what of it goes on, and the id that it gets.

Knows: the short list of headers that engines see. Whatever is not on it does not pass: no cookie, no
credential, nothing that a proxy before us added.
"""

from __future__ import annotations

import itertools
import re
import secrets

from aiohttp import web

__all__ = [
    "CORS",
    "PASSED",
    "REQUEST_ID",
    "new_request_id_line",
    "request_id_line",
    "request_id_of",
]

PASSED = (b"accept", b"traceparent")
"""Besides Content-Type and x-request-id, which we write ourselves."""

REQUEST_ID = web.RequestKey("request_id", str)
"""A request's id; each has one."""

CORS = web.RequestKey("cors", bytes)
"""Lines that its reply's head gets for browsers."""

_ID = re.compile(r"[!-~]{1,128}\Z")
_ID_BYTES = re.compile(_ID.pattern.encode())
_RUN = secrets.token_hex(6)
_NEW = f"req-{_RUN}-%x"
_NEW_LINE = f"x-request-id: {_NEW}\r\n".encode()
_COUNT = itertools.count(1)


def request_id_of(given: str | None) -> str:
    """The client's own id where it is one, else a new one: unique, and in order within this process."""
    if given and _ID.match(given):
        return given
    return _NEW % next(_COUNT)


def request_id_line(given: bytes) -> bytes:
    """A head's line with the client's own id where it is one, else with a new one."""
    return b"x-request-id: %b\r\n" % given if _ID_BYTES.match(given) else new_request_id_line()


def new_request_id_line() -> bytes:
    """A head's line with an id that is unique, and in order within this process."""
    return _NEW_LINE % next(_COUNT)
