"""Tokens for people: a callback, an iterator, or batches, from any engine, in process or over HTTP.

`StreamingEngine` hands them out; `core_source` takes them from an engine core's client, `http_source` from a running
engine's. Names load when they are first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginery.streaming.config import StreamingConfig, StreamRequest
    from enginery.streaming.core_source import core_source
    from enginery.streaming.engine import StreamingEngine
    from enginery.streaming.feed import TokenFeed
    from enginery.streaming.http_source import http_source
    from enginery.streaming.iterator import TextBatchIterator, TokenStreamIterator
    from enginery.streaming.source import TokenSource
    from enginery.streaming.tokens import StreamCallback, StreamToken

__all__ = [
    "StreamCallback",
    "StreamRequest",
    "StreamToken",
    "StreamingConfig",
    "StreamingEngine",
    "TextBatchIterator",
    "TokenFeed",
    "TokenSource",
    "TokenStreamIterator",
    "core_source",
    "http_source",
]

_HOME = {
    "StreamCallback": "tokens",
    "StreamRequest": "config",
    "StreamToken": "tokens",
    "StreamingConfig": "config",
    "StreamingEngine": "engine",
    "TextBatchIterator": "iterator",
    "TokenFeed": "feed",
    "TokenSource": "source",
    "TokenStreamIterator": "iterator",
    "core_source": "core_source",
    "http_source": "http_source",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'enginery.streaming' has no attribute {name!r}")
    value = getattr(import_module(f"enginery.streaming.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
