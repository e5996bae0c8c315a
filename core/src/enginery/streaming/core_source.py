"""`core_source`: tokens out of any `EngineCoreClient`.

Knows: which of the two ways drives which client: `core_threads` those that block, `core_loop` those that are awaited.
Does not know: either way's insides.
"""

from __future__ import annotations

from enginery.enginecore.client import EngineCoreClient
from enginery.streaming.core_loop import LoopSource
from enginery.streaming.core_threads import ThreadSource
from enginery.streaming.source import TokenSource

__all__ = ["core_source"]


def core_source(client: EngineCoreClient) -> TokenSource:
    """A source over a core's client; from now on it alone reads the client's outputs.

    The client stays its owner's: closing the source aborts its requests and leaves the client running. One with a sync
    half is served by two threads, and may be streamed from any thread and loop. `AsyncMPClient` belongs to one loop: the
    one that runs where the source is made, else a private one in a thread.
    """
    if client.has_sync:
        return ThreadSource(client)
    return LoopSource(client)
