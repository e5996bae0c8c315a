"""What a strict HTTP/1.1 client makes of the bytes that it got; nothing of the gateway's is used here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Got", "assert_error_shape", "read_replies"]

_FIRST = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) [ -~]+\Z|HTTP/(?:0\.9|2\.0) (4\d\d) [ -~]+\Z")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([ -~\x80-\xff]*)\Z")


@dataclass(frozen=True, slots=True)
class Got:
    """One reply.

    Args:
        fields: (lower-case name, value), in order.
        body: the payload, as far as it came.
        whole: False where the bytes end before the reply does.
        framed: its end does not need the connection's.
    """

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool
    framed: bool

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.fields if field == name]

    def get(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) <= 1, f"{name} is there {len(found)} times"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_replies(raw: bytes, *, head_only: bool = False) -> list[Got]:
    """Every reply in ``raw``, interim ones left out; an AssertionError where it is no HTTP.

    Args:
        head_only: they answer HEAD.
    """
    found: list[Got] = []
    while raw:
        if b"\r\n\r\n" not in raw:
            found.append(Got(0, (), raw, whole=False, framed=True))
            break
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        line = _FIRST.match(first)
        assert line is not None, first
        status = int(line[1] or line[2])
        fields = []
        for text in lines:
            field = _FIELD.match(text)
            assert field is not None, text
            fields.append((field[1].decode().lower(), field[2].decode("latin-1")))
        if status < 200:
            assert not fields
            continue
        lengths = [value for name, value in fields if name == "content-length"]
        codings = [value for name, value in fields if name == "transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, fields
        whole = framed = True
        if head_only:
            body = b""
        elif codings:
            assert codings == ["chunked"]
            body, raw, whole = _chunks(raw)
        elif lengths:
            length = int(lengths[0])
            body, raw = raw[:length], raw[length:]
            whole = len(body) == length
        else:
            body, raw, framed = raw, b"", False
        found.append(Got(status, tuple(fields), body, whole, framed))
    return found


def _chunks(raw: bytes) -> tuple[bytes, bytes, bool]:
    payload = b""
    while True:
        line, end, rest = raw.partition(b"\r\n")
        if not end:
            return payload, b"", False
        size = int(re.fullmatch(rb"([0-9a-fA-F]+)[ \t]*(?:;.*)?", line)[1], 16)
        if size == 0:
            if not rest.startswith(b"\r\n"):
                assert len(rest) < 2, rest
                return payload, b"", False
            return payload, rest[2:], True
        payload += rest[:size]
        if len(rest) < size + 2:
            assert b"\r\n".startswith(rest[size:])
            return payload, b"", False
        assert rest[size : size + 2] == b"\r\n"
        raw = rest[size + 2 :]


def assert_error_shape(got: Got) -> dict[str, Any]:
    """It is an error as every error of ours is; returns what is inside."""
    assert got.whole
    assert got.status >= 400
    assert got.get("content-type") == "application/json", got
    assert re.fullmatch(r"[!-~]{1,128}", got.get("x-request-id") or ""), got
    error = got.json["error"]
    assert set(error) == {"message", "type", "param", "code", "source"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["source"] in {"gateway", "engine"}
    return error
