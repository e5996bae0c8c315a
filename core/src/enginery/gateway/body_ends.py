"""A body's first and last bytes, kept while it passes: there it says what it cost, whether it is whole, how fast it flows.

Knows: how much has to be kept, and that what was handed on in chunks is unpacked only when somebody asks. Does
not know: what the words mean (`api.endings`).
"""

from __future__ import annotations

import re
from collections import deque

from enginery.api.endings import TAIL_BYTES
from enginery.gateway.framing import payload_of

__all__ = ["SHORT_TAIL", "BodyEnds"]

SHORT_TAIL = 512
"""Bytes that nearly always hold a stream's closing words and its usage; where not, all of the tail is read."""

_COMMENTS = re.compile(rb"(?:(?::[^\r\n]*)?[\r\n])+\Z")


class BodyEnds:
    """Both ends of one body.

    Args:
        in_chunks: what is added are whole chunks, not payload.
    """

    __slots__ = ("_dropped", "_first", "_in_chunks", "_pieces", "_size")

    def __init__(self, *, in_chunks: bool = False) -> None:
        self._in_chunks = in_chunks
        self._pieces: deque[bytes] = deque()
        self._first = b""
        self._size = 0
        self._dropped = 0

    @property
    def size(self) -> int:
        """Bytes that were added so far."""
        return self._dropped + self._size

    def add(self, piece: bytes) -> None:
        """The next bytes, not empty."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > 4 * TAIL_BYTES:
            self._trim()
        if not self._first:
            self._first = piece[:TAIL_BYTES]

    def first(self) -> bytes:
        """The payload's first bytes, as far as they came at once."""
        return payload_of(self._first) if self._in_chunks else self._first

    def last(self, size: int = TAIL_BYTES) -> bytes:
        """The payload's last bytes: ``size`` at least, or all where it is shorter."""
        pieces = []
        for piece in reversed(self._pieces):
            pieces.append(self._payload(piece))
            size -= len(pieces[-1])
            if size <= 0:
                break
        return b"".join(reversed(pieces))[-TAIL_BYTES:]

    def only_comments(self, count: int) -> bool:
        """The last ``count`` pieces were signs of the server's life, not of the model's."""
        pieces = list(self._pieces)[-count:]
        return bool(pieces) and all(_COMMENTS.match(self._payload(piece)) for piece in pieces)

    def event_size(self) -> float:
        """Bytes that each of the last events took, on average, with what frames them; 0.0 where there is none."""
        kept = b"".join(self._pieces)
        # in a string of JSON no line ends, so this is never a word of the reply's text
        events = kept.count(b"\ndata:") + kept.startswith(b"data:")
        return len(kept) / events if events else 0.0

    def _payload(self, piece: bytes) -> bytes:
        return payload_of(piece) if self._in_chunks else piece

    def _trim(self) -> None:
        """Whole pieces, and of small ones more than `TAIL_BYTES`: their framing is not payload."""
        before = self._size
        while self._size - len(self._pieces[0]) >= 2 * TAIL_BYTES:
            self._size -= len(self._pieces.popleft())
        self._dropped += before - self._size
