"""A client's side of the conversation, without a socket: bytes in, bytes out, and what can be known in between.

Knows: the handshake, calls by name and their answers, and the end: closed by us, or dead. Does not know: blocking or
event loops. `SyncMPClient` and `AsyncMPClient` are thin shells around this: they move bytes and wait.

    starting ──READY──▶ open ──shutdown()──▶ closing ──end──▶ over
        └────────DEAD, garbage, end of stream─────┴───────────▲
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from enginery.enginecore.config import ClientConfig
from enginery.enginecore.failures import Failure, failure_to_error
from enginery.enginecore.ledger import RequestLedger
from enginery.enginecore.messages import (
    Capabilities,
    EngineCoreRequest,
    RequestType,
)
from enginery.enginecore.wire import (
    PROTOCOL_VERSION,
    FrameReader,
    Hello,
    ProtocolError,
    Ready,
    Result,
    Shutdown,
    ToClient,
    Utility,
    decode_to_client,
    frame,
)
from enginery.errors import EngineryError

__all__ = ["ClientState"]


class ClientState(RequestLedger):
    """`RequestLedger` plus the wire. What makes bytes returns them; send them in that order."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False
        self.last_words: Exception | None = None
        """What the core said of its own death, if it did."""
        self._frames = FrameReader()
        self._ids = itertools.count(1)
        self._calls: dict[int, Result | None] = {}

    # -- what we say ---------------------------------------------------------------------------

    @staticmethod
    def hello(config: ClientConfig) -> bytearray:
        """The first frame."""
        return frame(
            RequestType.HELLO, Hello(PROTOCOL_VERSION, config.to_dict(), config.module_path())
        )

    def add(self, request: EngineCoreRequest) -> bytearray:
        """Accept a request; see `RequestLedger.admit`. ValueError when it is too long for a frame."""
        self.check()
        data = frame(RequestType.ADD_REQUEST, request)
        self.admit(request)
        return data

    def stop(self, ids: Sequence[str]) -> tuple[list[str], bytearray]:
        """Abort; the frame is empty when there is nothing to say."""
        ended = self.abort(ids) if self.over is None else []
        return ended, frame(RequestType.ABORT_REQUESTS, ended) if ended else bytearray()

    def call(self, method: str, args: Mapping[str, Any]) -> tuple[int, bytearray]:
        """Begin a call; its number is for `answer`. TypeError for arguments that are not plain values."""
        self.check()
        call_id = next(self._ids)
        data = frame(RequestType.UTILITY, Utility(call_id, method, dict(args)))
        self._calls[call_id] = None
        return call_id, data

    @staticmethod
    def shutdown(mode: str, timeout: float | None) -> bytearray:
        """Ask the core to end; the end of its stream follows."""
        return frame(
            RequestType.SHUTDOWN, Shutdown("drain" if mode == "drain" else "abort", timeout)
        )

    # -- what we hear --------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take in bytes. Raises `ProtocolError`: the core is then as good as dead, call `end`."""
        for kind, payload in self._frames.feed(data):
            if kind == ToClient.OUTPUTS and self.ready:
                self.put(decode_to_client(kind, payload))
            else:
                self._other(decode_to_client(kind, payload))

    def _other(self, message: Any) -> None:
        match message:
            case Ready() if not self.ready:
                if message.version != PROTOCOL_VERSION:
                    raise ProtocolError(
                        f"the core speaks protocol {message.version}, we speak {PROTOCOL_VERSION}"
                    )
                self.ready = True
                self.capabilities = message.capabilities
            case Result() if self.ready:
                if message.call_id in self._calls:  # else nobody waits any more
                    self._calls[message.call_id] = message
            case Failure():
                self.last_words = failure_to_error(message)
            case _:
                raise ProtocolError(f"{type(message).__name__} came at the wrong time")

    # -- what can be known ---------------------------------------------------------------------

    def able(self) -> Capabilities:
        """What the core can do; call it when ``ready``."""
        if self.capabilities is None:
            raise ProtocolError("the core has not said what it can do")
        return self.capabilities

    def answered(self, call_id: int) -> bool:
        """True when `answer` would not wait: there is one, or there will be none."""
        return self.over is not None or self._calls.get(call_id) is not None

    def answer(self, call_id: int) -> Any:
        """The value of a call, once; raises what the call raised over there, or what `check` raises."""
        result = self._calls.pop(call_id, None)
        if result is None:
            self.check()
            raise LookupError(f"call {call_id} has no answer")
        if result.failure is not None:
            raise failure_to_error(result.failure)
        return result.value

    def forget(self, call_id: int) -> None:
        """Nobody waits for this answer any more."""
        self._calls.pop(call_id, None)

    def end(self, why: EngineryError) -> None:
        """Over: every unfinished request gets its last output, every call without an answer fails."""
        super().end(why)
        self._calls = {number: result for number, result in self._calls.items() if result}
