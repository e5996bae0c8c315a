"""The one place that talks HTTP to engines with small requests: health, counts, sleep.

Knows: aiohttp's client, and which of its errors mean what. Does not know: what is asked. Inference
does not pass here (see `client`).
"""

from __future__ import annotations

import asyncio

import aiohttp

from enginery.errors import EngineTimeout, EngineUnreachable, InvalidRequest
from enginery.values import Endpoint, EngineReply, JSONObject, Transport

__all__ = ["HttpTransport", "auth_headers", "check_leads_to", "open_session"]

DEFAULT_TIMEOUT = 10.0


def open_session(unix_path: str | None = None) -> aiohttp.ClientSession:
    """A session for engines: no connection limit, no total timeout, no environment proxies.

    Args:
        unix_path: what it connects to, whatever the URL; None: what the URL names.
    """
    connector: aiohttp.BaseConnector
    if unix_path is None:
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
    else:
        connector = aiohttp.UnixConnector(unix_path, limit=0, force_close=False)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
        auto_decompress=False,
    )


def auth_headers(endpoint: Endpoint) -> dict[str, str]:
    """The per-spawn key, which proves to us that the engine is ours and to it that we are we."""
    return {} if endpoint.api_key is None else {"Authorization": f"Bearer {endpoint.api_key}"}


def check_leads_to(endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
    """A session's connector decides whom it talks to: a key must not go elsewhere.

    Raises:
        InvalidRequest: a unix socket of its own, or none where the endpoint has one.
    """
    connector = session.connector
    leads_to = connector.path if isinstance(connector, aiohttp.UnixConnector) else None
    if leads_to != endpoint.unix_path:
        raise InvalidRequest(
            f"this session does not lead to {endpoint.base_url}: use one of client.open_session()",
            param="session",
        )


class HttpTransport:
    """Small requests over a shared session, and one for each unix socket; hands out a `Transport`."""

    def __init__(self) -> None:
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}
        self._closed = False

    def to(self, endpoint: Endpoint) -> Transport:
        """What a `RunningEngine` at ``endpoint`` uses."""

        async def fetch(
            method: str, path: str, body: JSONObject | None, timeout: float | None
        ) -> EngineReply:
            return await self.fetch(endpoint, method, path, body, timeout)

        return fetch

    async def fetch(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        body: JSONObject | None = None,
        timeout: float | None = None,
    ) -> EngineReply:
        """One request, its whole reply read; ``timeout`` in seconds, 10 if None.

        Raises:
            EngineUnreachable: nothing answers, or it hung up.
            EngineTimeout: no whole reply in time.
        """
        if self._closed:
            raise EngineUnreachable(f"{endpoint.base_url}: the client is closed")
        session = self._sessions.get(endpoint.unix_path)
        if session is None or session.closed:
            session = self._sessions[endpoint.unix_path] = open_session(endpoint.unix_path)
        limit = aiohttp.ClientTimeout(total=timeout or DEFAULT_TIMEOUT)
        try:
            async with session.request(
                method,
                endpoint.request_url + path,
                json=body,
                headers=auth_headers(endpoint),
                timeout=limit,
                allow_redirects=False,
            ) as reply:
                headers = {name.lower(): value for name, value in reply.headers.items()}
                return EngineReply(reply.status, headers, await reply.read())
        except TimeoutError as error:
            route = path.partition("?")[0]  # a query may hold a secret, and errors are shown
            raise EngineTimeout(f"no answer from {endpoint.base_url}{route} in time") from error
        except aiohttp.ClientResponseError as error:  # its own words have the whole URL
            raise EngineUnreachable(
                f"{endpoint.base_url} does not speak HTTP: {error.message}"
            ) from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            raise EngineUnreachable(f"{endpoint.base_url}: {error}") from error

    async def close(self) -> None:
        """Close every connection, for good."""
        self._closed = True
        for session in self._sessions.values():
            await session.close()
