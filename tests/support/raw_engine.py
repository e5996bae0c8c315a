"""A server that answers with the bytes that a test wants, and ends where the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

__all__ = ["RawEngine", "head", "stream_head"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Answer = Callable[[asyncio.StreamWriter, str, dict[str, Any]], Awaitable[None]]


def head(status: str = "200 OK", *lines: str, kind: str = "application/json") -> bytes:
    fields = "".join(f"{line}\r\n" for line in (f"Content-Type: {kind}", *lines))
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode()


def stream_head() -> bytes:
    return head("200 OK", "Transfer-Encoding: chunked", kind="text/event-stream")


class RawEngine:
    """An async context manager. ``answer`` is called for each POST; the connection closes when it raises EOFError.

    Any GET, so a look at its health too, is answered with 200.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.posts: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def model(self, **more: Any) -> dict[str, Any]:
        """The settings of a model that is attached to it."""
        return {"engine": "openai", "url": self.url, "parallel": 4, **more}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(EOFError, ConnectionError):
                while True:
                    await self._one(reader, writer)
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.split("\r\n")
        method, path, _ = first.split(" ")
        fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        if method != "POST":
            writer.write(OK)
            return
        asked = json.loads(body)
        self.posts.append(asked)
        assert self.answer is not None
        await self.answer(writer, path, asked)
        await writer.drain()
