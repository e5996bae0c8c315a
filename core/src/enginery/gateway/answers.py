"""Replies that we write ourselves, straight to the client's connection.

Knows: the head of an event stream, chunks, and how aiohttp is told that a reply has gone out already. Does not
know: what is said.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from enginery.api.endings import Api, broken_stream_end
from enginery.errors import EngineryError
from enginery.gateway.error_replies import error_reply
from enginery.gateway.framing import CHUNKED_END, chunk
from enginery.gateway.sent import Client, Sent

__all__ = [
    "SERVER",
    "AlreadySent",
    "StreamAnswer",
    "error_response",
    "json_response",
    "own_version",
    "raw_error",
]

SERVER = "enginery"
"""What we call ourselves; aiohttp would tell its version, and Python's."""


class AlreadySent(web.StreamResponse):
    """For aiohttp: this request's reply went out without it."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection may be used again."""
        return self._open

    @property
    def prepared(self) -> bool:
        """Always: nothing is left to do."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Does nothing."""

    async def write_eof(self, data: Any = b"") -> None:
        """Does nothing."""


class StreamAnswer:
    """An event stream in our framing, begun when there is something to say.

    Args:
        client: its connection.
        sent: says how the client wants to be answered.
    """

    def __init__(self, client: Client, sent: Sent) -> None:
        self.begun = False
        self._client = client
        self._sent = sent

    def write(self, payload: bytes) -> None:
        """Send ``payload``, and the head before the first."""
        if self._client.transport is None:
            return
        framed = chunk(payload) if self._sent.chunked else payload
        self._client.transport.write(framed if self.begun else self._head() + framed)
        self.begun = True

    def end(self) -> None:
        """The stream is over."""
        if self._client.transport is not None and self._sent.chunked:
            self._client.transport.write(CHUNKED_END)

    def fail(self, api: Api, error: EngineryError, tail: bytes = b"") -> None:
        """The stream ends with an error on which clients raise."""
        self.write(broken_stream_end(api, error, tail))
        self.end()

    def _head(self) -> bytes:
        framing = b"Transfer-Encoding: chunked\r\n" if self._sent.chunked else b""
        stays = self._sent.chunked and self._sent.keep_alive
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n%b%b%b\r\n"
            % (
                self._sent.extra,
                framing,
                b"" if stays else b"Connection: close\r\n",
            )
        )


def json_response(
    body: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """A reply of ours in JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    own = {"Server": SERVER, **(headers or {})}
    return web.Response(body=raw, status=status, headers=own, content_type="application/json")


def error_response(
    error: EngineryError, api: Api = "chat", *, engine_saw_request: bool = False
) -> web.Response:
    """An error as aiohttp's reply."""
    status, headers, body = error_reply(error, api, engine_saw_request=engine_saw_request)
    return json_response(body, status=status, headers=headers)


def raw_error(error: EngineryError, sent: Sent, *, engine_saw_request: bool = True) -> bytes:
    """An error as the whole reply, head and body."""
    status, headers, body = error_reply(error, sent.api, engine_saw_request=engine_saw_request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\n%b%bContent-Length: %d\r\n\r\n%b"
        % (
            status,
            _REASONS.get(status, "Error").encode(),
            lines.encode("latin-1"),
            sent.extra,
            len(body),
            body,
        )
    )


def own_version() -> str:
    """The version that is installed; ``unknown`` where that is not known."""
    try:
        return version("enginery")
    except PackageNotFoundError:
        return "unknown"


_REASONS = {status.value: status.phrase for status in HTTPStatus}
