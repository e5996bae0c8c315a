"""A running gateway, as the commands see it that ask one.

Knows: where it is, the key, its ``/api``, and what its errors look like. Does not know: what is printed. A gateway
that is not there is `GatewayUnreachable`, which leaves with 3; one that refuses is an error like any other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp
import click
import msgspec

from enginery.api.sse import SSEDecoder
from enginery.engine.events import EngineEvent
from enginery.errors import EngineryError
from enginery.values import JSONObject

__all__ = ["DEFAULT_URL", "GatewayClient", "GatewayUnreachable", "gateway_options"]

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT = 5.0
"""Seconds to be let in; what is asked then may take as long as it takes."""


class GatewayUnreachable(click.ClickException):
    """Nothing answers there, or nothing that is a gateway; the command leaves with 3."""

    exit_code = 3


def gateway_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that asks a running gateway."""
    url = click.option(
        "--url",
        envvar="ENGINERY_URL",
        help=f"The gateway's address; default: $ENGINERY_URL, else {DEFAULT_URL}.",
    )
    key = click.option(
        "--api-key",
        envvar="ENGINERY_API_KEY",
        help="A key of its `server.admin_keys`, where it has some; default: $ENGINERY_API_KEY.",
    )
    return url(key(command))


class GatewayClient:
    """Asks one gateway. An async context manager.

    Args:
        url: its address; None: `DEFAULT_URL`.
        api_key: None: none is sent.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = (url or DEFAULT_URL).rstrip("/").removesuffix("/v1")
        if urlsplit(self.url).scheme not in {"http", "https"}:
            raise click.UsageError(f"--url needs the form {DEFAULT_URL}, got {url!r}")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> JSONObject:
        """What is there, as JSON.

        Raises:
            GatewayUnreachable: see the class.
            EngineryError: the gateway's own words.
        """
        async with self._ask("GET", path) as answer:
            return _object(await answer.read(), self.url)

    async def post(self, path: str, body: JSONObject | None = None) -> JSONObject:
        """As `get`, for what changes something."""
        async with self._ask("POST", path, json=body or {}) as answer:
            return _object(await answer.read(), self.url)

    async def lines(self, path: str) -> AsyncGenerator[str]:
        """The lines of a text, as they come. Raises as `get`."""
        async with self._ask("GET", path) as answer:
            buffer = b""
            async for data in answer.content.iter_any():
                *whole, buffer = (buffer + data).split(b"\n")
                for line in whole:
                    yield line.decode("utf-8", "replace")
            if buffer:
                yield buffer.decode("utf-8", "replace")

    async def events(self) -> AsyncIterator[EngineEvent]:
        """Everything that happens there from now on. Raises as `get`."""
        async with self._ask("GET", "/api/events") as answer:
            decoder = SSEDecoder()
            async for data in answer.content.iter_any():
                for event in decoder.feed(data):
                    told: dict[str, Any] = msgspec.json.decode(event.data)
                    own = {key: told.pop(key, None) for key in ("seq", "at", "type", "model")}
                    yield EngineEvent(**own, variant=told.pop("instance", None), data=told)

    async def answers(self) -> bool:
        """Whether a gateway is there; whom it lets in is another question."""
        with suppress(GatewayUnreachable, EngineryError):
            return "status" in await self.get("/livez")
        return False

    @staticmethod
    def model_path(model: str, action: str) -> str:
        """The path of what can be done with a model, whose name may hold anything."""
        return f"/api/models/{quote(model, safe='')}/{action}"

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, **more: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, f"{self.url}{path}", **more) as answer:
                if answer.status >= 400:
                    raise _refused(answer.status, await answer.read(), self.url)
                yield answer
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            why = getattr(getattr(error, "os_error", None), "strerror", None) or error
            raise GatewayUnreachable(f"no gateway at {self.url}: {why}") from error


def _object(raw: bytes, url: str) -> JSONObject:
    with suppress(msgspec.MsgspecError):
        found = msgspec.json.decode(raw)
        if isinstance(found, dict):
            return found
    raise GatewayUnreachable(f"what answers at {url} is no gateway")


def _refused(status: int, raw: bytes, url: str) -> EngineryError | GatewayUnreachable:
    try:
        error = msgspec.json.decode(raw)["error"]
        message = str(error["message"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return GatewayUnreachable(f"what answers at {url} is no gateway: HTTP {status}")
    told = EngineryError(message)
    told.status = status
    return told
