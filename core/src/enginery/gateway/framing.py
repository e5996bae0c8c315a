"""HTTP/1.1 responses as engines frame them: heads, chunks, ends. Sans-IO.

Knows: RFC 9112, as far as a relay needs it (https://www.rfc-editor.org/rfc/rfc9112). Does not know:
connections, or what a body means. Engines are foreign code: what is not well formed is a
`BadEngineReply`, never a guess.

A relay that forwards whole chunks only can put a chunk of its own behind them at any time. So
`ChunkWalk` does not unpack a body: it finds where the last whole chunk ends, keeps the rest until it is
whole, and hands on the bytes as they came.
"""

from __future__ import annotations

import re

import msgspec

from enginery.errors import BadEngineReply

__all__ = [
    "CHUNKED_END",
    "HOLD_LIMIT",
    "MAX_HEAD_BYTES",
    "Body",
    "ChunkWalk",
    "Framing",
    "PlainBody",
    "ResponseHead",
    "body_reader",
    "chunk",
    "parse_head",
    "payload_of",
]

MAX_HEAD_BYTES = 64 * 1024
HOLD_LIMIT = 64 * 1024
"""A chunk that is larger is not waited for: it passes through, and dying inside it cannot be mended."""

CHUNKED_END = b"0\r\n\r\n"

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?\Z")
_HEAD = re.compile(rb"[^\r\n]*(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)*\Z")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_MAX_SIZE_LINE = 256
_MAX_DIGITS = 18

_CONNECTIONS_OWN = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length"),
    }
)
"""Fields that hold from one connection to the next only."""

_NOT_RELAYED = (b"access-control-", b"set-cookie", b"x-request-id", b"strict-transport", b"server")
"""Fields that speak for the engine's own address, not for ours."""

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,15})(?=\r\n|\Z)")
_HEADS: dict[bytes, ResponseHead] = {}
_REMEMBERED = 256
_SHORT_HEAD = 4096

_EVENT_STREAM = b"text/event-stream"
_KEEPING = frozenset({b"keep-alive", b"close"})
_EMPTY = frozenset({204, 304})
"""Whatever their heads say, no body follows: a client would take one for the next reply."""


class Framing(msgspec.Struct):  # made for each reply: a dataclass takes twice as long
    """How long a body is: in chunks, ``length`` bytes, or until the connection closes."""

    chunked: bool = False
    length: int | None = None


class ResponseHead(msgspec.Struct):
    """A parsed head.

    Args:
        status: 100 to 999.
        reason: as the engine put it.
        fields: (lower-case name, value) in their order, without those of the connection itself.
        framing: how long the body is.
        keep_alive: whether the engine leaves the connection open.
    """

    status: int
    reason: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    framing: Framing
    keep_alive: bool

    relayed: bytes = b""
    """The fields as lines, without those that are no client's business; filled in by `parse_head`."""

    streams: bool = False
    """It begins an event stream, not an error, and may have a body; filled in by `parse_head`."""

    def get(self, name: bytes) -> bytes:
        """The first value of the field ``name``, in lower case; empty where there is none."""
        for field, value in self.fields:
            if field == name:
                return value
        return b""


def parse_head(head: bytes, *, bodiless: bool = False) -> ResponseHead:
    """As `read_head`; heads that differ in nothing but the length of their bodies are read once."""
    length = None if bodiless else _LENGTH.search(head)
    if length is None:
        return read_head(head, bodiless=True) if bodiless else _known(head)
    start, end = length.span(1)
    key = head[:start] + b"0" + head[end:]
    known = _HEADS.get(key)
    if known is None:
        if head.lower().count(b"content-length") > 1:
            return read_head(head)
        known = _known(key)
    framing = known.framing
    if framing.length is not None and known.status >= 200 and known.status not in _EMPTY:
        framing = Framing(False, int(length[1]))
    return ResponseHead(
        known.status,
        known.reason,
        known.fields,
        framing,
        known.keep_alive,
        known.relayed,
        known.streams,
    )


def _known(head: bytes) -> ResponseHead:
    """As `read_head`; one without a length, or whose length was taken out, is read once."""
    found = _HEADS.get(head)
    if found is None:
        found = read_head(head)
        if len(_HEADS) >= _REMEMBERED:
            _HEADS.clear()
        if len(head) <= _SHORT_HEAD:
            _HEADS[head] = found
    return found


def read_head(head: bytes, *, bodiless: bool = False) -> ResponseHead:
    """The head that ``head`` holds, without its empty line.

    Args:
        head: all lines of it.
        bodiless: the request was a HEAD.

    Raises:
        BadEngineReply: it is not HTTP/1.x, or its framing can be read in two ways.
    """
    first, *lines = head.split(b"\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise BadEngineReply(f"the engine does not speak HTTP/1.1: {first[:80]!r}")
    if _HEAD.match(head) is None:
        raise BadEngineReply(f"a malformed header from the engine: {head[:200]!r}")
    fields: list[tuple[bytes, bytes]] = []
    length: int | None = None
    codings: list[bytes] = []
    connection: set[bytes] = set()
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name not in _CONNECTIONS_OWN:
            fields.append((name, value))
        elif name == b"content-length":
            fine = value.isdigit() and len(value) <= _MAX_DIGITS
            if not fine or (length is not None and length != int(value)):
                raise BadEngineReply(f"the engine's Content-Length is {value[:40]!r}")
            length = int(value)
        elif name == b"transfer-encoding":
            codings += [word.strip().lower() for word in value.split(b",")]
        elif name == b"connection":
            connection |= {word.strip().lower() for word in value.split(b",")}
    if connection - _KEEPING:
        fields = [field for field in fields if field[0] not in connection]
    code = int(status[2])
    if codings and (codings != [b"chunked"] or length is not None or status[1] == b"0"):
        raise BadEngineReply("the engine's reply has two lengths, or an unknown transfer coding")
    empty = bodiless or code < 200 or code in _EMPTY
    if empty:
        framing = Framing(length=0)
    elif codings:
        framing = Framing(chunked=True)
    else:
        framing = Framing(length=length)
    keep_alive = b"close" not in connection if status[1] == b"1" else b"keep-alive" in connection
    return ResponseHead(
        code,
        status[3] or b"",
        tuple(fields),
        framing,
        keep_alive and (framing.chunked or framing.length is not None),
        b"".join(
            [b"%b: %b\r\n" % field for field in fields if not field[0].startswith(_NOT_RELAYED)]
        ),
        code < 400
        and not empty
        and dict(reversed(fields)).get(b"content-type", b"").startswith(_EVENT_STREAM),
    )


def chunk(payload: bytes) -> bytes:
    """``payload`` as one chunk; nothing for an empty one, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


class ChunkWalk:
    """A chunked body, whole chunks at a time, as they came.

    Attributes:
        ended: the last chunk, of length 0, and its trailers have come.
        inside: part of a chunk was handed on: nothing can be put behind it.
        surplus: bytes that came behind the end.
    """

    __slots__ = ("_held", "_need", "ended", "inside", "surplus")

    def __init__(self) -> None:
        self.ended = False
        self.inside = False
        self.surplus = False
        self._held = b""
        self._need = 0  # bytes that the chunk which we are inside of lacks, its CRLF included

    @property
    def waits(self) -> bool:
        """It holds bytes that are no whole chunk."""
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What may be handed on now; never the last chunk itself, which is the caller's to write.

        Raises:
            BadEngineReply: a size that is none.
        """
        if not self._need and not self._held:
            line = data.find(b"\r\n", 0, _MAX_SIZE_LINE)
            size = _SIZES.get(data[:line])
            if size and line + 4 + size == len(data) and data.endswith(b"\r\n"):
                return data  # one whole chunk, as nearly always
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        offset = self._need
        if offset:
            self._go_on(data, offset)
            if self._need:
                return data
        elif self._held:
            data = self._held + data
            self._held = b""
        end = len(data)
        while offset < end:
            line = data.find(b"\r\n", offset, offset + _MAX_SIZE_LINE)
            if line < 0:
                if end - offset >= _MAX_SIZE_LINE:
                    raise BadEngineReply("the engine's chunked framing is broken")
                break
            word = data[offset:line]
            size = _SIZES.get(word)
            if size is None:
                size = _exact_size(word)
            if size == 0:
                return self._end(data, offset, line)
            after = line + 4 + size
            if after > end:
                if after - offset > HOLD_LIMIT:
                    if end == after - 1 and data[end - 1] != 0x0D:
                        raise BadEngineReply("the engine's chunked framing is broken")
                    self._need = after - end
                    self.inside = True
                    return data
                break
            if data[after - 2 : after] != b"\r\n":
                raise BadEngineReply("the engine's chunked framing is broken")
            offset = after
        if offset >= end:
            return data
        self._held = data[offset:]
        return data[:offset]

    def _go_on(self, data: bytes, need: int) -> None:
        """``data`` begins inside of a chunk that was handed on in part."""
        cr, lf = data[max(0, need - 2) : need - 1], data[need - 1 : need]
        if cr not in {b"", b"\r"} or lf not in {b"", b"\n"}:  # empty: they come later, or came
            raise BadEngineReply("the engine's chunked framing is broken")
        self._need = max(0, need - len(data))
        self.inside = bool(self._need)

    def _end(self, data: bytes, offset: int, line: int) -> bytes:
        """The last chunk begins at ``offset``: its trailers are waited for and dropped."""
        stop = line if data.startswith(b"\r\n", line + 2) else data.find(b"\r\n\r\n", line)
        if stop < 0:
            if len(data) - offset > MAX_HEAD_BYTES:
                raise BadEngineReply("the engine's trailers are too long")
            self._held = data[offset:]
        else:
            self.ended = True
            self.surplus = len(data) > stop + 4
        return data[:offset]


_SIZES: dict[bytes, int] = {}
"""Sizes as engines write them, read once: a look-up is twice as fast, and a stream has few of them."""


def _exact_size(line: bytes) -> int:
    found = _SIZE.match(line)
    if found is None:
        raise BadEngineReply(f"the engine's chunk size is {line[:40]!r}")
    size = int(found[1], 16)
    if len(_SIZES) < 4096 and len(line) <= 4:
        _SIZES[line] = size
    return size


class Body:
    """A body's payload, unpacked, piece by piece."""

    ended = False
    """All of it has come."""

    surplus = False
    """More came than belongs to it."""

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``."""
        raise NotImplementedError

    def close(self) -> bool:
        """The connection has closed; True when that is how this body ends."""
        return False


class PlainBody(Body):
    """A body of known length, or one that ends with its connection."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, data: bytes) -> bytes:
        """See `Body`."""
        if self._left is None:
            return data
        self.surplus = len(data) > self._left
        data = data[: self._left]
        self._left -= len(data)
        self.ended = self._left == 0
        return data

    def close(self) -> bool:
        """See `Body`."""
        self.ended = self.ended or self._left is None
        return self.ended


class _ChunkedBody(Body):
    """A chunked body, unpacked."""

    def __init__(self) -> None:
        self._walk = ChunkWalk()
        self._left = 0  # of a chunk that was handed on in part, its CRLF included

    @property
    def waits(self) -> bool:
        """It holds bytes that are no whole chunk."""
        return self._walk.waits

    def feed(self, data: bytes) -> bytes:
        """See `Body`."""
        whole = self._walk.feed(data)
        self.ended, self.surplus = self._walk.ended, self._walk.surplus
        pieces, offset, end = [], 0, len(whole)
        if self._left:
            pieces.append(whole[: max(0, self._left - 2)])
            offset, self._left = min(self._left, end), max(0, self._left - end)
        while offset < end:
            line = whole.index(b"\r\n", offset)
            size = _exact_size(whole[offset:line])
            pieces.append(whole[line + 2 : line + 2 + size])
            offset = line + 4 + size
        self._left = max(self._left, offset - end)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def body_reader(framing: Framing) -> Body:
    """What unpacks a body of this framing."""
    return _ChunkedBody() if framing.chunked else PlainBody(framing.length)


def payload_of(whole_chunks: bytes) -> bytes:
    """The payload of what a `ChunkWalk` handed on; bytes that begin inside a chunk stay as they are."""
    line = whole_chunks.find(b"\r\n", 0, 10)
    size = _SIZES.get(whole_chunks[:line], 0)
    if size and line + 4 + size == len(whole_chunks):  # one chunk, as it is nearly always
        return whole_chunks[line + 2 : -2]
    body = _ChunkedBody()
    try:
        payload = body.feed(whole_chunks)
    except BadEngineReply:
        return whole_chunks
    return whole_chunks if body.waits else payload
