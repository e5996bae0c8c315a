"""The core's side of the conversation, without a socket: commands come in, frames go out, in order.

Knows: the handshake, and what to do while the client does not read: up to a limit frames are kept as bytes, beyond it
outputs are folded into one for each request. So a stopped client costs a bounded amount of memory, and the core never
waits for it. Does not know: sockets, or how commands are carried out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from enginery.enginecore.failures import failure_from
from enginery.enginecore.messages import (
    Capabilities,
    EngineCoreOutputs,
    RequestType,
)
from enginery.enginecore.unread import Unread
from enginery.enginecore.wire import (
    PROTOCOL_VERSION,
    FrameReader,
    Hello,
    ProtocolError,
    Ready,
    Result,
    ToClient,
    decode_to_core,
    frame,
)

__all__ = ["CoreEnd"]

BACKLOG = 1024 * 1024
"""Bytes that wait for the client before outputs are folded instead of encoded."""


class CoreEnd:
    """What the core hears and what it has to say."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._frames = FrameReader()
        self._greeted = False
        self._backlog = backlog
        self._bytes = bytearray()
        self._unread = Unread()

    # -- what we hear --------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[tuple[int, Any]]:
        """The messages that are complete now, each with its `RequestType`. Raises `ProtocolError`."""
        messages = []
        for kind, payload in self._frames.feed(data):
            message = decode_to_core(kind, payload)
            if self._greeted == (kind == RequestType.HELLO):
                raise ProtocolError(f"a {RequestType(kind).name} at the wrong time")
            if isinstance(message, Hello):
                self._greeted = True
                if message.version != PROTOCOL_VERSION:
                    raise ProtocolError(
                        f"the client speaks protocol {message.version}, we speak {PROTOCOL_VERSION}"
                    )
            messages.append((kind, message))
        return messages

    # -- what we say ---------------------------------------------------------------------------

    def ready(self, capabilities: Capabilities, pid: int) -> None:
        """The model is loaded."""
        self._say(ToClient.READY, Ready(PROTOCOL_VERSION, capabilities, pid))

    def outputs(self, batch: EngineCoreOutputs) -> None:
        """What a step gave."""
        if self._unread or len(self._bytes) > self._backlog:
            self._unread.add(batch)
        else:
            self._bytes += frame(ToClient.OUTPUTS, batch)

    def result(self, call_id: int, value: Any) -> None:
        """A call's value; one that msgpack cannot say is the call's failure."""
        try:
            self._say(ToClient.RESULT, Result(call_id, value))
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self.failure(call_id, TypeError(f"the answer cannot travel: {error}"))

    def failure(self, call_id: int, error: BaseException) -> None:
        """A call's error."""
        self._say(ToClient.RESULT, Result(call_id, None, failure_from(error)))

    def dead(self, error: BaseException) -> None:
        """The last words."""
        self._say(ToClient.DEAD, failure_from(error))

    def _say(self, kind: ToClient, message: object) -> None:
        said = frame(kind, message)
        self._encode()  # outputs made before an answer arrive before it
        self._bytes += said

    def _encode(self) -> None:
        batch = self._unread.take_all()
        waiting = [] if batch is None else [batch]
        while waiting:
            batch = waiting.pop()
            try:
                self._bytes += frame(ToClient.OUTPUTS, batch)
            except ValueError:  # hours of many requests: more than a frame holds
                half = len(batch.outputs) // 2
                if not half:
                    raise
                first = msgspec.structs.replace(batch, outputs=batch.outputs[:half])
                batch.outputs = batch.outputs[half:]
                waiting += [batch, first]

    # -- bytes ---------------------------------------------------------------------------------

    def pending(self) -> bytearray:
        """What has to be sent; empty when there is nothing. Tell `sent` how much of it went out."""
        if self._unread and len(self._bytes) <= self._backlog:
            self._encode()
        return self._bytes

    def sent(self, count: int) -> None:
        """The socket took so many bytes."""
        if count == len(self._bytes):
            self._bytes = bytearray()
        else:
            del self._bytes[:count]
