"""One request on its way to an engine, as values: what is known when it is sent, and what became of it.

Knows: what the two doors, a relay, the error replies and the metrics tell each other. Does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from enginery.api.endings import Api, Usage
from enginery.engine.seam import Outcome
from enginery.errors import EngineryError

__all__ = ["Client", "Deadlines", "Progress", "Reply", "Sent", "Source"]


class Source(Protocol):
    """Where a client's bytes come from: a relay, as the client's connection needs it."""

    def pause(self) -> None:
        """The client reads more slowly than the engine writes."""
        ...

    def resume(self) -> None:
        """The client has caught up."""
        ...

    def client_left(self) -> None:
        """The client's connection is gone."""
        ...


class Client(Protocol):
    """The client's connection, as a relay needs it."""

    relay: Source | None
    """Whom to tell when the client reads too slowly, or left."""

    transport: asyncio.Transport | None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: until the engine's first byte, between two reads, and for a client that does not read."""

    first_byte: float = 300.0
    stall: float = 120.0
    write_stall: float = 60.0


class Sent(msgspec.Struct):  # one for each request: a dataclass takes twice as long
    """One request on its way: what the relay, the error replies and the metrics have to know of it.

    Args:
        api: the shape of its reply.
        request_id: told to the client.
        extra: lines of ours for the reply's head, each with its CRLF.
        chunked: the client understands chunks; HTTP/1.0 does not.
        keep_alive: the client's connection stays open.
        committed: a head was sent already.
        cancel: when the client leaves, so does the request; else the engine is heard out.
        deadlines: when to give up.
        path, model, stream: what was asked for.
        began: when the gateway had it, in the clock of `Relay`.
        size: bytes of its body.
        over: called when the reply is written, with whether the connection may be used again; None: nobody asks.
    """

    api: Api
    request_id: str
    extra: bytes = b""
    chunked: bool = True
    keep_alive: bool = True
    committed: bool = False
    cancel: bool = True
    deadlines: Deadlines = Deadlines()  # frozen
    path: str = ""
    model: str = ""
    stream: bool = False
    began: float = 0.0
    size: int = 0
    over: Callable[[bool], None] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a reply has come.

    Args:
        running_s: seconds since the request was sent.
        first_byte_s: seconds from the sending to the first of a stream; None: it is not there, or no stream is.
        size: bytes of the stream so far, with whatever frames them.
        chunk_size: bytes that one of its last events took, on average; 0.0 where none came.
    """

    running_s: float
    first_byte_s: float | None
    size: int
    chunk_size: float


class Reply(msgspec.Struct):  # one for each request: a dataclass takes twice as long
    """What became of a request whose reply was written to the client.

    Args:
        status: what the client got.
        outcome: how the lease ended.
        keep_alive: the client's connection may be used again.
        first_byte_s: seconds from the sending to the first of the engine's stream, which a folded reply was, too;
            None where it sent none.
        total_s: seconds from the sending to the end.
        usage: what the engine says that it cost.
        error: what broke it, after its head was sent.
    """

    status: int
    outcome: Outcome
    keep_alive: bool
    first_byte_s: float | None = None
    total_s: float = 0.0
    usage: Usage | None = None
    error: EngineryError | None = None
