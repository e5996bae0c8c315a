"""`EngineClient`: one running engine, as an application sees it; and its implementation from hooks.

Knows: requests in OpenAI's shape, their routes, the plugin's transforms. Does not know: how the engine
was started, or who else uses it; with ``acquire`` each request takes a lease for as long as its
response is open.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from copy import copy
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from enginery.engine.endpoints import endpoint_of_url
from enginery.engine.routing import reply_budget
from enginery.engine.seam import Outcome
from enginery.engine.transport import HttpTransport, auth_headers, check_leads_to, open_session
from enginery.errors import (
    EndpointNotSupported,
    EngineCrashed,
    EngineEvicted,
    EngineryError,
    EngineUnreachable,
    InvalidRequest,
    UnsupportedOperation,
)
from enginery.plugins import EngineHooks
from enginery.values import Endpoint, EngineRequest, Health, JSONObject, RunningEngine, Variant

__all__ = ["EngineClient", "PluginEngineClient", "route_of"]

DEFAULT_REPLY_TOKENS = 512


def route_of(body: JSONObject) -> str:
    """The route that a body belongs to, by its main field.

    Raises:
        InvalidRequest: it has none of ``messages``, ``prompt`` and ``input``.
    """
    if "messages" in body:
        return "/v1/chat/completions"
    if "prompt" in body:
        return "/v1/completions"
    if "input" in body:
        return "/v1/embeddings"
    raise InvalidRequest("the request has none of messages, prompt and input", param="messages")


class EngineClient(ABC):
    """One running engine."""

    logger: logging.Logger
    variant: Variant

    @property
    @abstractmethod
    def base_url(self) -> str:
        """``http://host:port`` of the engine; see `Endpoint.base_url` for one on a unix socket."""

    @abstractmethod
    async def estimate_tokens(self, request_data: JSONObject) -> int:
        """Prompt tokens, exact where the engine can count, plus the reply's budget."""

    @abstractmethod
    def transform_request(self, request_data: JSONObject) -> JSONObject:
        """The body as the engine gets it. Raises `InvalidRequest` for what it would answer badly."""

    @abstractmethod
    def transform_response(
        self, response_data: JSONObject, request_data: JSONObject | None = None
    ) -> JSONObject:
        """A reply, or a chunk (its ``object`` ends in ``.chunk``), as the client gets it."""

    @abstractmethod
    def get_supported_endpoints(self) -> list[str]:
        """The routes that the engine serves."""

    @abstractmethod
    async def forward_request(
        self, session: aiohttp.ClientSession, url: str, request_data: JSONObject
    ) -> aiohttp.ClientResponse:
        """Send a request; the response is open, close it (``async with``) when done."""

    @abstractmethod
    async def check_health(self, base_url: str | None = None, timeout: float = 5.0) -> bool:
        """True when the engine can serve; never raises for a dead one. ``timeout`` in seconds."""

    @abstractmethod
    async def health(self) -> Health:
        """What the engine says of itself."""


class HeldLease(Protocol):
    """What a client needs of a `Lease`, which in turn knows its client."""

    @property
    def client(self) -> EngineClient:
        """Talks to the leased engine."""
        ...

    @property
    def error(self) -> EngineryError | None:
        """Why the engine was taken away, once it was."""
        ...

    def release(self, outcome: Outcome | str = Outcome.OK) -> None:
        """End the lease; the second call does nothing."""
        ...

    def on_evict(self, callback: Callable[[EngineryError], None]) -> None:
        """Call ``callback`` when the engine is taken away; at once if it was already."""
        ...


class PluginEngineClient(EngineClient):
    """An `EngineClient` out of a plugin's hooks.

    Args:
        hooks: the plugin's.
        variant: what runs there.
        endpoint: where it listens.
        acquire: gives the lease that each forwarded request holds; None takes no lease and talks to
            any running server.
        transport: for small requests; its own if None, then `aclose` (or ``async with``) closes it.
        reply_tokens: the reply's budget where the request sets none.
        current: where the engine listens now, None while it does not run: it may be restarted while the
            client is in somebody's hands. Default: always at ``endpoint``.
        failure: why the engine is down, if it is. Default: nobody knows.
    """

    def __init__(
        self,
        hooks: EngineHooks,
        variant: Variant,
        endpoint: Endpoint,
        *,
        acquire: Callable[[], Awaitable[HeldLease]] | None = None,
        transport: HttpTransport | None = None,
        pid: int | None = None,
        health_path: str = "/health",
        reply_tokens: int = DEFAULT_REPLY_TOKENS,
        current: Callable[[], Endpoint | None] | None = None,
        failure: Callable[[], EngineryError | None] | None = None,
    ) -> None:
        self.hooks = hooks
        self.variant = variant
        self._endpoint = endpoint
        self._current = current
        self._failure = failure
        self.logger = logging.getLogger(f"enginery.client.{variant.id}")
        self._acquire = acquire
        self._transport = transport or HttpTransport()
        self._owns_transport = transport is None
        self._pid = pid
        self._health_path = health_path
        self._reply_tokens = reply_tokens

    @property
    def endpoint(self) -> Endpoint:
        """Where the engine listens, or did at last."""
        found = None if self._current is None else self._current()
        if found is not None:
            self._endpoint = found
        return self._endpoint

    @property
    def base_url(self) -> str:
        """That of `endpoint`."""
        return self.endpoint.base_url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections for small requests, unless the manager owns them."""
        if self._owns_transport:
            await self._transport.close()

    def running_engine(self, base_url: str | None = None) -> RunningEngine:
        """What hooks that do I/O get.

        Raises:
            EngineEvicted: the engine does not run, so nobody is sent its key.
        """
        if base_url is None and self._current is not None and self._current() is None:
            raise EngineEvicted(f"{self.variant.id} is not loaded: call ensure_engine again")
        endpoint = self.endpoint if base_url is None else endpoint_of_url(base_url)
        fetch = self._transport.to(endpoint)
        return RunningEngine(self.variant, endpoint, self._pid, fetch, self._health_path)

    # -- the request's way ---------------------------------------------------------------------

    async def estimate_tokens(self, request_data: JSONObject) -> int:
        """See `EngineClient`. Without an engine to ask, the upper bound counts."""
        request = self._request(request_data)
        budget = reply_budget(request, self._reply_tokens)
        try:
            exact = await self.hooks.count_tokens(request, self.running_engine())
        except EngineEvicted:
            exact = None
        if exact is not None:
            return exact + budget
        bounds = self.hooks.estimate_tokens(request, self.variant)
        return (bounds.low if bounds.high is None else bounds.high) + budget

    def transform_request(self, request_data: JSONObject) -> JSONObject:
        """See `EngineClient`; ``model`` is filled in, ``request_data`` is not changed."""
        return self.body_for(self._request(request_data))

    def body_for(self, request: EngineRequest) -> JSONObject:
        """What the engine gets for a request to ``request.path``; raises as `transform_request`."""
        body = self.hooks.transform_request(request, self.variant)
        return {**(request.body if body is None else body), "model": self.variant.body_model}

    def transform_response(
        self, response_data: JSONObject, request_data: JSONObject | None = None
    ) -> JSONObject:
        """See `EngineClient`. Each call stands alone: for a stream, keep one transform of the hooks.

        Raises:
            UnsupportedOperation: the plugin makes several chunks of one, which one value cannot hold.
        """
        request = EngineRequest("", {}) if request_data is None else self._request(request_data)
        transform = self.hooks.transform_response(request, self.variant)
        if transform is None:
            return response_data
        if not str(response_data.get("object", "")).endswith(".chunk"):
            return transform.reply(response_data)
        chunks = transform.chunk(response_data)
        if len(chunks) > 1:
            raise UnsupportedOperation(
                "this engine's plugin splits chunks: use hooks.transform_response for a stream"
            )
        return chunks[0] if chunks else {**response_data, "choices": []}

    def get_supported_endpoints(self) -> list[str]:
        """See `EngineClient`."""
        return list(self.hooks.get_supported_endpoints(self.variant))

    async def forward_request(
        self, session: aiohttp.ClientSession, url: str, request_data: JSONObject
    ) -> aiohttp.ClientResponse:
        """Send ``request_data`` to the engine; its own 4xx and 5xx come back as they are.

        Args:
            session: the application's own. For an engine on a unix socket one over an
                `aiohttp.UnixConnector` to just that, such as `open_session` gives.
            url: the route ("/v1/chat/completions"), this client's base URL with or without a route,
                or "" — without a route the body's main field decides.
            request_data: the body in OpenAI's shape; not changed.

        Raises:
            InvalidRequest: the body, the URL of another server, or a session that does not lead there.
            EndpointNotSupported: the engine lacks the route.
            EngineEvicted: the engine made room for another since this client was given out.
            EngineUnreachable: nothing answers.
        """
        path = self._path(url, request_data)
        supported = self.get_supported_endpoints()
        if path not in supported:
            raise EndpointNotSupported(
                f"{self.variant.id} has no {path}; it has {', '.join(supported)}"
            )
        body = self.body_for(self._request(request_data, path))
        lease = None if self._acquire is None else await self._acquire()
        target = self.endpoint if lease is None else _endpoint_of(lease, self.endpoint)
        try:
            check_leads_to(target, session)
            response = await session.post(
                target.request_url + path,
                json=body,
                # llama.cpp closes a connection after a stream without saying so, others after a while: one
                # that is not used again cannot be stale, and a new one on this machine costs 0.1 ms
                headers={**auth_headers(target), "Connection": "close"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0),
                allow_redirects=False,
            )
        except BaseException as error:
            failed = isinstance(error, (aiohttp.ClientError, OSError))
            if lease is not None:
                lease.release(Outcome.ENGINE_ERROR if failed else Outcome.CLIENT_GONE)
                if failed and lease.error is not None:
                    raise lease.error from error
            if failed:
                raise EngineUnreachable(
                    f"{self.variant.id} at {target.base_url}: {error}"
                ) from error
            raise
        if lease is not None:
            _hold_until_closed(lease, response)
        return response

    def open_session(self) -> aiohttp.ClientSession:
        """A session that leads to this engine, whatever it listens on; close it when done."""
        return open_session(self.endpoint.unix_path)

    def on_lease(self, lease: HeldLease) -> Self:
        """The same client, whose requests use this lease instead of taking one each."""
        twin = copy(self)

        async def acquire() -> HeldLease:
            return lease

        twin._acquire = acquire  # noqa: SLF001  # our own copy
        twin._owns_transport = False  # noqa: SLF001  # the original closes it
        return twin

    async def why_broken(self, error: Exception) -> EngineryError:
        """Why a response broke off: the engine's own end, once that is known, within three seconds.

        The connection breaks a moment before anybody has seen the process end.
        """
        for _ in range(60):  # a busy machine needs a second to tell that a process ended
            known = None if self._failure is None else self._failure()
            if known is not None:
                return known
            if self._current is None:
                break
            await asyncio.sleep(0.05)
        return EngineCrashed(f"{self.variant.id} broke off: {error}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.variant.id} at {self._endpoint.base_url}>"

    # -- health --------------------------------------------------------------------------------

    async def check_health(self, base_url: str | None = None, timeout: float = 5.0) -> bool:
        """See `EngineClient`; ``base_url`` asks another address in the same way."""
        try:
            health = await self.hooks.check_health(self.running_engine(base_url), timeout)
        except EngineryError as error:
            self.logger.debug("health check failed: %s", error)
            return False
        return health.state == "ready"

    async def health(self) -> Health:
        """See `EngineClient`.

        Raises:
            EngineTimeout: the check took too long.
        """
        return await self.hooks.check_health(self.running_engine())

    # -- inside --------------------------------------------------------------------------------

    def _request(self, body: Any, path: str | None = None) -> EngineRequest:
        """The request for ``path``; without one, for the route that the body's main field names."""
        if not isinstance(body, dict):
            raise InvalidRequest(f"the request must be an object, got {type(body).__name__}")
        return EngineRequest(path or route_of(body), body, body.get("stream") is True)

    def _path(self, url: str, body: JSONObject) -> str:
        path = url.removeprefix(self.base_url)
        if path in {"", "/"}:
            return route_of(body)
        if not path.startswith("/"):
            raise InvalidRequest(f"{url!r} is not at {self.base_url}", param="url")
        return path


def _endpoint_of(lease: HeldLease, default: Endpoint) -> Endpoint:
    """Where the leased engine listens: it may have been restarted since this client was made."""
    return lease.client.endpoint if isinstance(lease.client, PluginEngineClient) else default


def _hold_until_closed(lease: HeldLease, response: aiohttp.ClientResponse) -> None:
    """Release the lease when the response's connection is given back or closed.

    A response that came whole has given it back already. One that is dropped without being closed keeps
    its lease until its engine is evicted: aiohttp holds on to it.
    """

    def evicted(error: EngineryError) -> None:
        response.content.set_exception(error)
        response.close()

    connection = response.connection
    if connection is None:
        lease.release()
        return
    connection.add_callback(lease.release)
    lease.on_evict(evicted)
