"""The `TokenSource` protocol: what a `StreamingEngine` needs of whatever makes tokens.

Knows: the four calls. Does not know: any engine. `core_source` and `http_source` make the two that ship.
"""

from __future__ import annotations

from typing import Protocol

from enginery.streaming.config import StreamRequest
from enginery.streaming.feed import TokenFeed

__all__ = ["TokenSource"]


class TokenSource(Protocol):
    """Runs requests and feeds their tokens to streams."""

    @property
    def is_available(self) -> bool:
        """False once it is closed, or known to be dead."""
        ...

    def start(self, request: StreamRequest, feed: TokenFeed) -> None:
        """Begin a reply, from any thread, without blocking; its tokens and its end go to ``feed``.

        The source sets ``feed.on_abandon``, and closes the feed once the request is aborted. Raises what is wrong
        with the request as far as it can be seen at once, and `EngineClosedError` after `close`; what the engine
        finds wrong arrives through ``feed``.
        """
        ...

    def close(self) -> None:
        """Abort what is unfinished and end every thread and task; blocks for moments. Idempotent."""
        ...
