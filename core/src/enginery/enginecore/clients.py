"""`create_client`: the three clients by name.

Knows: the names. Does not know: anything else. A client's module is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from enginery.enginecore.client import EngineCoreClient
from enginery.enginecore.config import ClientConfig

__all__ = ["ClientType", "create_client"]

ClientType = Literal["inproc", "sync_mp", "async_mp"]

_CLIENTS = {
    "inproc": ("enginery.enginecore.inproc", "InprocClient"),
    "sync_mp": ("enginery.enginecore.sync_mp", "SyncMPClient"),
    "async_mp": ("enginery.enginecore.async_mp", "AsyncMPClient"),
}


def create_client(kind: ClientType, config: ClientConfig | None = None) -> EngineCoreClient:
    """A client of a new core: in this process (``"inproc"``), or in a child's, sync or async.

    Raises ValueError, listing the three, for any other word, and what the client's class raises.
    """
    if kind not in _CLIENTS:
        raise ValueError(f"no client {kind!r}; there are {', '.join(_CLIENTS)}")
    module, name = _CLIENTS[kind]
    client: EngineCoreClient = getattr(import_module(module), name)(config)
    return client
