"""Server-sent events: bytes in, events out, and back. No I/O.

Knows: the event stream format of the HTML standard (https://html.spec.whatwg.org/multipage/
server-sent-events.html#event-stream-interpretation). Does not know: what the data means, or sockets.

Line ends are LF, CRLF or CR, mixed as they come. The stream may be cut into pieces anywhere, also
within a character or between CR and LF: the events are the same. So bytes are split into lines first
and only whole lines are decoded, malformed UTF-8 with U+FFFD as the standard says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from enginery.errors import BadEngineReply

__all__ = [
    "DONE",
    "MAX_EVENT_BYTES",
    "SSEDecoder",
    "SSEEvent",
    "encode_comment",
    "encode_event",
]

DONE = b"data: [DONE]\n\n"
"""The last event of OpenAI's chat and completion streams."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The default bound on one event. The largest that engines send are a few hundred kilobytes."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SSEEvent:
    """One event as dispatched.

    Args:
        data: the data lines, joined by LF.
        event: the type; ``"message"`` where the stream names none.
        id: the last event id that the stream has given so far.
    """

    data: str
    event: str = "message"
    id: str = ""


class SSEDecoder:
    """Turns the pieces of one stream into events.

    Args:
        max_event_bytes: the most that one event may hold before it is complete.

    ``retry_ms`` is the reconnection time that the stream asked for last, in milliseconds, or None.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.retry_ms: int | None = None
        self._max = max_event_bytes
        self._line: list[bytes] = []  # the pieces of a line whose end has not come
        self._line_bytes = 0
        self._data: list[str] = []
        self._data_bytes = 0
        self._event = ""
        self._id = ""
        self._at_start = True
        self._after_cr = False
        self._error: BadEngineReply | None = None

    @property
    def at_boundary(self) -> bool:
        """True when no event is half read: a frame of one's own may be put in here."""
        return not (self._line or self._data or self._event)

    def feed(self, data: bytes) -> list[SSEEvent]:
        """Take the next bytes; returns the events that they complete.

        Raises:
            BadEngineReply: an event is over the bound. Events before it are returned first, by the
                call that met it; the error then comes with the next call.
        """
        self._raise_error()
        if self._after_cr and data.startswith(b"\n"):
            self._after_cr = False
            data = data[1:]
        events: list[SSEEvent] = []
        for line in data.splitlines(keepends=True):  # bytes are split at LF, CR and CRLF only
            content = line.rstrip(b"\r\n")
            ended = len(content) < len(line)
            self._after_cr = line.endswith(b"\r")
            if not self._hold(content):
                break
            if ended:
                events += self._end_line()
        if not events:
            self._raise_error()
        return events

    def close(self) -> None:
        """The stream has ended; an event without its blank line is dropped, as the standard says.

        Look at `at_boundary` before, to know whether that happened.

        Raises:
            BadEngineReply: an event was over the bound.
        """
        self._line.clear()
        self._data.clear()
        self._line_bytes = self._data_bytes = 0
        self._event = ""
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _hold(self, content: bytes) -> bool:
        """Keep a piece of the current line; False when the event has become too large."""
        if content:
            self._line.append(content)
            self._line_bytes += len(content)
        if self._data_bytes + self._line_bytes > self._max:
            self._error = BadEngineReply(
                f"an event of the stream is larger than {self._max} bytes; it was cut off there"
            )
            return False
        return True

    def _end_line(self) -> list[SSEEvent]:
        raw = b"".join(self._line)
        self._line.clear()
        self._line_bytes = 0
        if self._at_start:
            self._at_start = False
            raw = raw.removeprefix(_BOM)
        if not raw:
            return self._dispatch()
        if not raw.startswith(b":"):
            self._field(raw)
        return []

    def _field(self, raw: bytes) -> None:
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._data_bytes += len(raw)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(
                value[:18]
            )  # a longer number is no time, and int() refuses the longest

    def _dispatch(self) -> list[SSEEvent]:
        events = []
        if self._data:
            events.append(SSEEvent("\n".join(self._data), self._event or "message", self._id))
        self._data.clear()
        self._data_bytes = 0
        self._event = ""
        return events


def encode_event(data: str, event: str | None = None) -> bytes:
    """One event; ``data`` may have several lines.

    Raises:
        ValueError: ``event`` holds a line end.
    """
    if event is not None and _LINE_END.search(event):
        raise ValueError(f"an event's type is one line, got {event!r}")
    head = "" if event is None else f"event: {event}\n"
    lines = "".join(f"data: {line}\n" for line in _LINE_END.split(data))
    return f"{head}{lines}\n".encode()


def encode_comment(text: str = "") -> bytes:
    """A comment, which clients skip: it keeps a silent connection alive."""
    lines = "".join(f": {line}\n" if line else ":\n" for line in _LINE_END.split(text))
    return f"{lines}\n".encode()
