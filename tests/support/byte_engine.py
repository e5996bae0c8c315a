"""An engine made of a bare socket: it records every byte that arrives, and answers as it is told.

Knows: how to find the end of a request in the one form that the gateway may send. Whatever does not have
that form lands in `RawEngine.strange`, so that a test sees what a lenient server would have made of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from enginery import EngineManager, Settings
from enginery.gateway import Gateway
from support.replies import Got, read_replies

__all__ = [
    "REPLY",
    "Arrived",
    "Line",
    "RawEngine",
    "chunked",
    "exchange",
    "gateway_to",
    "one_reply",
    "post",
    "stream_of",
]

REPLY = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
).encode()

_HEAD = re.compile(rb"(POST|GET) (/[!-~]*) HTTP/1\.1\r\n((?:[!-9;-~]+: [ -~\x80-\xff]*\r\n)+)\r\n")


@dataclass(frozen=True, slots=True)
class Arrived:
    """One request as it came."""

    connection: int
    path: str
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = Callable[[Arrived, asyncio.StreamWriter], Awaitable[None]]


def one_reply(body: bytes = REPLY, *, status: str = "200 OK", extra: bytes = b"") -> bytes:
    """A whole reply with a length."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status.encode(),
        extra,
        len(body),
        body,
    )


def chunked(*payloads: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in these chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in payloads) + end


def stream_of(*words: str) -> list[bytes]:
    """The events of a whole chat stream, each as bytes."""
    pieces = [
        {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in words
    ]
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    events = [b"data: %b\n\n" % json.dumps(piece).encode() for piece in (*pieces, last)]
    return [*events, b"data: [DONE]\n\n"]


async def answer_once(_: Arrived, writer: asyncio.StreamWriter) -> None:
    writer.write(one_reply())


class RawEngine:
    """Listens on a free port, or on a unix socket; an async context manager.

    Attributes:
        answer: writes the reply to each request.
        requests: all that arrived in the form that is expected, in order.
        strange: what did not.
        raw: the bytes of each connection that was more than a look at its health.
    """

    def __init__(self, *, unix_path: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = answer_once
        self.requests: list[Arrived] = []
        self.strange: list[bytes] = []
        self.raw: dict[int, bytearray] = {}
        self.accepted = 0
        self._unix_path, self._tls = unix_path, tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: dict[int, asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        if self._unix_path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._unix_path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """Connections that carried a request and are open."""
        return len([number for number in self._writers if number in self.raw])

    def hang_up(self) -> None:
        """Close every connection that carried a request."""
        for number in self.raw:
            if number in self._writers:
                self._writers[number].close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        number = self.accepted
        self._writers[number] = writer
        try:
            await self._requests(number, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            del self._writers[number]
            writer.transport.abort()

    async def _requests(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        held = b""
        while True:
            while b"\r\n\r\n" not in held:
                more = await reader.read(65536)
                if not more:
                    if held:
                        self.strange.append(held)
                    return
                held += more
            end = held.index(b"\r\n\r\n") + 4
            if held.startswith(b"GET /health "):
                held = held[end:]
                writer.write(one_reply(b"{}"))
                continue
            seen = self.raw.setdefault(number, bytearray())
            found = _HEAD.fullmatch(held[:end])
            fields = ()
            if found is not None:
                lines = found[3].decode("latin-1").split("\r\n")[:-1]
                fields = tuple(tuple(line.split(": ", 1)) for line in lines)
            lengths = [value for name, value in fields if name.lower() == "content-length"]
            if found is None or len(lengths) != 1 or not lengths[0].isdigit():
                self.strange.append(held)
                return
            while len(held) < end + int(lengths[0]):
                more = await reader.read(1 << 20)
                if not more:
                    self.strange.append(held)
                    return
                held += more
            stop = end + int(lengths[0])
            seen += held[:stop]
            arrived = Arrived(number, found[2].decode(), fields, held[end:stop])
            held = held[stop:]
            self.requests.append(arrived)
            await self.answer(arrived, writer)
            if writer.is_closing():
                return


@asynccontextmanager
async def gateway_to(
    engine: RawEngine | str,
    *,
    fast: bool = True,
    engine_type: str = "openai",
    server: dict[str, Any] | None = None,
    warm: bool = True,
    **defaults: Any,
) -> AsyncIterator[Gateway]:
    """A gateway whose one model, ``m``, is this engine.

    Args:
        warm: one request went through, so that the next one may take the short way.
    """
    url = engine if isinstance(engine, str) else engine.url
    settings = Settings(
        models={"m": {"engine": engine_type, "url": url, "aliases": ["other-name"]}},
        defaults={"shutdown_timeout": 0.2, "min_residency": 0, **defaults},
        server=server or {},
    )
    async with (
        EngineManager(settings) as manager,
        Gateway(manager, host="127.0.0.1", port=0, fast=fast) as gateway,
    ):
        if warm:
            got = await exchange(gateway, post({"model": "m", "messages": []}, close=True))
            assert got.startswith(b"HTTP/1.1 200"), got
            if isinstance(engine, RawEngine):
                engine.requests.clear()
        yield gateway


def post(
    body: Any,
    path: str = "/v1/chat/completions",
    *,
    extra: bytes = b"",
    close: bool = False,
) -> bytes:
    """A plain request, as clients send it."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n%b%b\r\n%b"
    ) % (path.encode(), len(raw), b"Connection: close\r\n" if close else b"", extra, raw)


async def exchange(gateway: Gateway, *sent: bytes, half_close: bool = False) -> bytes:
    """All that comes back on one connection until the gateway closes it."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    try:
        async with asyncio.timeout(30):
            for piece in sent:
                writer.write(piece)
                await writer.drain()
            if half_close:
                writer.write_eof()
            return await reader.read(-1)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


class Line:
    """One client's connection, request after request; opened again where the gateway closed it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.opened = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    async def ask(self, *pieces: bytes) -> Got:
        """Send one request, in these pieces, and read its reply."""
        async with asyncio.timeout(30):
            if self._writer is None or self._writer.is_closing() or self._reader.at_eof():
                self._reader, self._writer = await asyncio.open_connection(*self._gateway.address)
                self.opened += 1
            for piece in pieces:
                self._writer.write(piece)
                await asyncio.sleep(0)
            raw = b""
            while True:
                more = await self._reader.read(1 << 18)
                raw += more
                found = read_replies(raw)
                if not more or (found and found[-1].whole and found[-1].framed):
                    break
        assert len(found) == 1, raw
        if found[0].get("connection") == "close":
            self._writer.transport.abort()
            self._writer = None
        return found[0]
