"""The wire between a client and the core's process: frames, and the messages in them. No I/O.

    frame     u32 little-endian length of the rest | u8 kind | msgpack payload
    to core   HELLO Hello | ADD_REQUEST EngineCoreRequest | ABORT_REQUESTS [ids] | UTILITY Utility | SHUTDOWN Shutdown
    to client READY Ready | OUTPUTS EngineCoreOutputs | RESULT Result | DEAD Failure

The client says HELLO first, with its protocol version and the configuration; the core answers READY, with its
own version and what the backend can do, or DEAD. Each kind has one typed decoder, so bytes can build nothing but
these messages; whatever is not one of them is a `ProtocolError`. msgpack arrays only grow at their end: a newer
side leaves out what an older one does not know. The form was chosen by measurement: on one machine a socketpair
with msgspec has a third of the round trip of pyzmq, and the end of the stream is the news of the other's death.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct as Layout
from typing import Any, Literal

import msgspec

from enginery.enginecore.failures import Failure
from enginery.enginecore.messages import (
    Capabilities,
    EngineCoreOutputs,
    EngineCoreRequest,
    RequestType,
)
from enginery.errors import BadEngineReply

__all__ = [
    "MAX_FRAME",
    "PROTOCOL_VERSION",
    "FrameReader",
    "Hello",
    "ProtocolError",
    "Ready",
    "Result",
    "Shutdown",
    "ToClient",
    "Utility",
    "decode_to_client",
    "decode_to_core",
    "frame",
]

PROTOCOL_VERSION = 1
"""Raised when an old side could misread a new one; fields at the end of a message do not count."""

MAX_FRAME = 64 * 1024 * 1024
"""Bytes of kind and payload; a longer frame is an error before any of it is kept."""

_HEAD = Layout("<IB")
_LENGTH = 4


class ProtocolError(BadEngineReply):
    """The bytes are no message of this protocol, or it comes at the wrong time."""


class ToClient(IntEnum):
    """Kinds of frames that the core sends; a client's are `RequestType`."""

    READY = 0
    OUTPUTS = 1
    RESULT = 3
    DEAD = 8


class Hello(msgspec.Struct, array_like=True, forbid_unknown_fields=False):
    """The client's first word. ``path`` is where its Python finds modules; the backend may be one of them."""

    version: int
    config: dict[str, Any]
    path: list[str] = []


class Ready(msgspec.Struct, array_like=True):
    """The core's first word: the model is loaded, and this is what it can do."""

    version: int
    capabilities: Capabilities
    pid: int


class Utility(msgspec.Struct, array_like=True):
    """A call by name; the answer carries the same ``call_id``."""

    call_id: int
    method: str
    args: dict[str, Any]


class Result(msgspec.Struct, array_like=True):
    """The answer to a call: a value, or the error that it ended with."""

    call_id: int
    value: Any = None
    failure: Failure | None = None


class Shutdown(msgspec.Struct, array_like=True):
    """``abort`` ends every request at once; ``drain`` lets them finish, for ``timeout`` seconds at most."""

    mode: Literal["abort", "drain"] = "abort"
    timeout: float | None = None


_encoder = msgspec.msgpack.Encoder()

_TO_CORE: dict[int, Callable[[bytes], Any]] = {
    RequestType.ADD_REQUEST: msgspec.msgpack.Decoder(EngineCoreRequest).decode,
    RequestType.ABORT_REQUESTS: msgspec.msgpack.Decoder(list[str]).decode,
    RequestType.UTILITY: msgspec.msgpack.Decoder(Utility).decode,
    RequestType.HELLO: msgspec.msgpack.Decoder(Hello).decode,
    RequestType.SHUTDOWN: msgspec.msgpack.Decoder(Shutdown).decode,
}
_TO_CLIENT: dict[int, Callable[[bytes], Any]] = {
    ToClient.READY: msgspec.msgpack.Decoder(Ready).decode,
    ToClient.OUTPUTS: msgspec.msgpack.Decoder(EngineCoreOutputs).decode,
    ToClient.RESULT: msgspec.msgpack.Decoder(Result).decode,
    ToClient.DEAD: msgspec.msgpack.Decoder(Failure).decode,
}


def frame(kind: int, message: object) -> bytearray:
    """One frame. Raises ValueError when it is over `MAX_FRAME`, TypeError for what msgpack cannot say."""
    buffer = bytearray(_HEAD.size)
    _encoder.encode_into(message, buffer, _HEAD.size)
    length = len(buffer) - _LENGTH
    if length > MAX_FRAME:
        raise ValueError(f"the message has {length} bytes; {MAX_FRAME} are the most")
    _HEAD.pack_into(buffer, 0, length, kind)
    return buffer


def decode_to_core(kind: int, payload: bytes) -> Any:
    """The message in a frame that a client sent; raises `ProtocolError`."""
    return _decode(_TO_CORE, kind, payload)


def decode_to_client(kind: int, payload: bytes) -> Any:
    """The message in a frame that the core sent; raises `ProtocolError`."""
    return _decode(_TO_CLIENT, kind, payload)


def _decode(decoders: dict[int, Callable[[bytes], Any]], kind: int, payload: bytes) -> Any:
    decode = decoders.get(kind)
    if decode is None:
        raise ProtocolError(f"no frame has the kind {kind}")
    try:
        return decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise ProtocolError(
            f"a frame of the kind {kind} does not hold its message: {error}"
        ) from error


class FrameReader:
    """Cuts a stream of bytes into frames. Keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = _LENGTH

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Kind and payload of each frame that is complete now; raises `ProtocolError` for an impossible length."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= _LENGTH:
            length = int.from_bytes(data[at : at + _LENGTH], "little")
            if not 1 <= length <= MAX_FRAME:
                raise ProtocolError(f"a frame of {length} bytes; 1 to {MAX_FRAME} are possible")
            stop = at + _LENGTH + length
            if stop > end:
                break
            frames.append((data[at + _LENGTH], data[at + _LENGTH + 1 : stop]))
            at = stop
        self._need = _LENGTH
        if at < end:
            self._rest += data[at:]
            if len(self._rest) >= _LENGTH:
                self._need += int.from_bytes(self._rest[:_LENGTH], "little")
        return frames
