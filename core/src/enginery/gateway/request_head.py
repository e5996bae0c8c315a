"""A client's request head: what of it goes on, and the id that it gets.

Knows: the short list of headers that engines see. Whatever is not on it does not pass: no cookie, no
credential, nothing that a proxy before us added.
"""

from __future__ import annotations

import itertools
import re
import secrets

__all__ = ["PASSED", "request_id_of"]

PASSED = (b"accept", b"traceparent")
"""Besides Content-Type and x-request-id, which we write ourselves."""

_ID = re.compile(r"[!-~]{1,128}\Z")
_RUN = secrets.token_hex(6)
_COUNT = itertools.count(1)


def request_id_of(given: str | None) -> str:
    """The client's own id where it is one, else a new one: unique, and in order within this process."""
    if given and _ID.match(given):
        return given
    return f"req-{_RUN}-{next(_COUNT):x}"
