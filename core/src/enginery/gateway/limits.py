"""How long clients may take, and how much they may make us hold. Values, and one counter.

Knows: the numbers. Does not know: connections. What is slow is cut off, so that nobody can hold our
sockets and memory for nothing.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["BodyBudget", "ConnectionLimits", "raise_file_limit"]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Seconds and bytes.

    Args:
        header: until a request's head is complete; from the connection's start, or its first byte.
        keep_alive: an idle connection is kept open.
        body_grace, body_rate: a body may take ``body_grace`` seconds, and one more for each ``body_rate``
            bytes that have come.
        linger: what is still sent of a body that was refused is read and dropped for so long, so that the
            client comes to read why.
        write_stall: a client may leave what we wrote unread.
        body_budget: bytes that the bodies of all requests under way may have together.
    """

    header: float = 10.0
    keep_alive: float = 75.0
    body_grace: float = 30.0
    body_rate: float = 4096.0
    linger: float = 5.0
    write_stall: float = 60.0
    body_budget: int = 512 * 2**20


class BodyBudget:
    """What bodies hold, all requests together.

    Args:
        limit: bytes; `take` refuses what is above.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def full(self) -> bool:
        """Not a byte is left."""
        return self.used >= self.limit

    def take(self, count: int) -> bool:
        """Set ``count`` bytes aside; False, and nothing happens, where they are too many."""
        if self.used + count > self.limit:
            return False
        self.used += count
        return True

    def give(self, count: int) -> None:
        """They are free again."""
        self.used -= count


def raise_file_limit() -> int:
    """Let this process open as many files as it may; each stream needs two. Returns how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has limits that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft
