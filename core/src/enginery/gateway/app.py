"""The gateway: its routes put together, its start and its end.

Knows: which route is whose, and the order of starting and stopping. Does not know: how a request is
served (`handler`, `fast`), or what the settings mean elsewhere.

    start:   manager's preloads → listening
    stop:    no new requests → open ones may finish → engines stop → connections close
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from enginery.api.endings import api_of
from enginery.engine.manager import EngineManager
from enginery.errors import (
    BodyTooLarge,
    ConfigError,
    EndpointNotSupported,
    EngineryError,
    EngineTimeout,
    InvalidRequest,
    MethodNotAllowed,
)
from enginery.gateway.access import Access, check_exposure, own_addresses
from enginery.gateway.answers import SERVER, error_response
from enginery.gateway.compat import CompatRoutes
from enginery.gateway.connection import GatewayServer
from enginery.gateway.doorway import enter, let_read
from enginery.gateway.fast import FastPath
from enginery.gateway.handler import InferenceHandler
from enginery.gateway.held import HEARTBEAT
from enginery.gateway.inference import Finished, Inference
from enginery.gateway.limits import BodyBudget, ConnectionLimits
from enginery.gateway.models import ModelRoutes
from enginery.gateway.observation import Observation
from enginery.gateway.outbox import Outbox
from enginery.gateway.relay import Relay
from enginery.gateway.reloading import Reloading
from enginery.gateway.request_head import REQUEST_ID, request_id_of
from enginery.gateway.root import RootRoute
from enginery.gateway.ui import Dashboard
from enginery.gateway.upstreams import UpstreamPool
from enginery.gateway.watch import Watch
from enginery.settings import ServerSettings, Settings

__all__ = ["Gateway"]

BACKLOG = 4096

log = logging.getLogger("enginery.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """One address in front of a manager's models. An async context manager.

    Args:
        manager: entered and shut down by the caller; its settings say where to listen.
        host, port: instead of the settings'.
        fast: use the short way for plain requests.
        heartbeat: seconds between two signs of life for a stream that waits.
        limits: how slow clients may be, and how much they may make us hold.
        on_finished: told of every request that reached a model.
        read_settings: gives the settings as they are written now; default: reads the settings' own file.
    """

    def __init__(
        self,
        manager: EngineManager,
        *,
        host: str | None = None,
        port: int | None = None,
        fast: bool = True,
        heartbeat: float = HEARTBEAT,
        limits: ConnectionLimits | None = None,
        on_finished: Callable[[Finished], None] = lambda _: None,
        read_settings: Callable[[], Settings] | None = None,
    ) -> None:
        self.manager = manager
        server = manager.settings.server
        self._host = server.host if host is None else host
        self._access = self._access_of(server)
        self._port = server.port if port is None else port
        self._fast = fast
        self._limits = limits = limits or ConnectionLimits()
        self._budget = BodyBudget(limits.body_budget)
        self._pool = UpstreamPool()
        self._watch = Watch(self._pool, self._stalled, write_stall=limits.write_stall)
        self._observation = Observation(
            manager, on_finished, self._watch.relays, heartbeat=heartbeat
        )
        flow = self._observation.flow
        self._watch.also.append(flow.look)
        self._inference = Inference(manager, self._observation.finished, flow.first_token)
        self._models = ModelRoutes(manager)
        self._handler = InferenceHandler(
            self._inference,
            self._pool,
            self._watch,
            body_limit=server.body_limit,
            limits=limits,
            budget=self._budget,
            heartbeat=heartbeat,
        )
        self.reloading = Reloading(manager, check=self._check, adopt=self.adopt, read=read_settings)
        """Reads the settings again."""
        self._short_way: FastPath | None = None
        self._runner: _Runner | None = None
        self._site: web.TCPSite | None = None

    def adopt(self, server: ServerSettings) -> None:
        """Live by these settings from the next request on: keys, hosts, origins and limits.

        The address stays. A request that is under way ends as it began.

        Raises:
            ConfigError: they would open what listens to everybody.
        """
        self._check(server)
        self._access = self._access_of(server)
        self._inference.forget()
        self._watch.forget()
        self._handler.body_limit = server.body_limit
        if self._short_way is not None:
            self._short_way.body_limit = server.body_limit
            self._short_way.forget()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once it does: host and port."""
        assert self._runner is not None
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    @property
    def base_url(self) -> str:
        """``http://host:port``, without a trailing slash."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on, or everybody could use it; see `check_exposure`.
        """
        self._check(self.manager.settings.server)
        app = web.Application(middlewares=[self._every_request])
        self._models.add_to(app)
        self._observation.add_to(app)
        self.reloading.add_to(app)
        RootRoute().add_to(app)
        Dashboard().add_to(app)
        CompatRoutes(self.manager, self._inference, lambda: self._handler.body_limit).add_to(app)
        app.router.add_route("*", "/{path:.*}", self._other, expect_handler=_expected)
        if self._fast:
            self._short_way = FastPath(
                self._inference,
                self._pool,
                self._watch,
                self._budget,
                lambda fields: self._access.admits(fields),  # noqa: PLW0108  # it is replaced by `adopt`
            )
            self._short_way.body_limit = self._handler.body_limit
        self._runner = _Runner(
            app,
            self._short_way,
            self._limits,
            self._budget,
            self._pool.outbox,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=self._limits.keep_alive,
            lingering_time=self._limits.linger,
            auto_decompress=False,
        )
        await self._runner.setup()
        server = self._runner.server
        if isinstance(server, GatewayServer):
            self._watch.also.append(server.look)
        self._site = web.TCPSite(self._runner, self._host, self._port, backlog=BACKLOG)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            code = error.errno or 0  # of a name that is unknown it is below 0
            why = os.strerror(code) if code > 0 else error.strerror or error
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {why}",
                param="server.port",
            ) from error
        self._watch.start()
        self._observation.start()

    async def stop(self) -> None:
        """Take no new requests, let open ones finish as the manager's shutdown does, close. Idempotent."""
        self._models.draining = True
        site, self._site = self._site, None
        if site is not None:
            await site.stop()
        try:
            await self.manager.shutdown()
        finally:
            self._watch.stop()
            self._observation.stop()
            if self._runner is not None:
                await self._runner.cleanup()
            self._pool.close()

    # -- inside ------------------------------------------------------------------------------------

    @web.middleware
    async def _every_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Looks who asks; gives each request its id, and each error its shape."""
        request_id = request[REQUEST_ID] = request_id_of(request.headers.get("x-request-id"))
        try:
            unsure = _unsure(request)
            if unsure is not None:
                raise unsure
            response = self._enter(request) or await handler(request)
        except EngineryError as error:
            response = error_response(error, api_of(request.path))
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        except web.HTTPException as error:
            response = error_response(_translated(error, request))
        if not response.prepared:
            if unsure is not None:
                response.force_close()
            response.headers["x-request-id"] = request_id
            response.headers["Server"] = SERVER
            let_read(request, response)
        return response

    def _enter(self, request: web.Request) -> web.Response | None:
        """See `enter`; who is turned away is counted."""
        try:
            return enter(self._access, request)
        except EngineryError as error:
            self._observation.metrics.refused(request.path, error.status)
            raise

    async def _other(self, request: web.Request) -> web.StreamResponse:
        """Whatever is not the gateway's own is a model's."""
        own = self._models.has(request.path)
        if request.method == "POST" and not own:
            return await self._handler(request)
        if own or request.path in self._inference.endpoints():
            allowed = "GET" if own else "POST"
            response = error_response(
                MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}")
            )
            response.headers["Allow"] = allowed
            return response
        raise EndpointNotSupported(f"there is nothing at {request.path}")

    def _check(self, server: ServerSettings) -> None:
        check_exposure(server.model_copy(update={"host": self._host}))

    def _access_of(self, server: ServerSettings) -> Access:
        return Access(server, own_addresses(self._host))

    def _stalled(self, relay: Relay, error: EngineTimeout) -> None:
        """Suspect, unless the same engine still sends to others: then it is merely busy."""
        log.warning("%s", error.message)
        lease, now = relay.lease, monotonic()
        engine = lease.instance, lease.generation
        if not any(
            (other.lease.instance, other.lease.generation) == engine and other.flows(now)
            for other in self._watch.relays
        ):
            self.manager.suspect(lease)


class _Runner(web.AppRunner):
    """aiohttp's runner, with a server of ours."""

    def __init__(
        self,
        app: web.Application,
        fast: FastPath | None,
        limits: ConnectionLimits,
        budget: BodyBudget,
        outbox: Outbox,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self._fast = fast
        self._limits = limits
        self._budget = budget
        self._outbox = outbox

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return GatewayServer(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=asyncio.get_running_loop(),
            fast=self._fast,
            limits=self._limits,
            budget=self._budget,
            outbox=self._outbox,
            **made._kwargs,  # noqa: SLF001  # aiohttp has no public way to another connection class
        )


async def _expected(request: web.Request) -> None:
    """``Expect: 100-continue`` is answered; whatever else a client expects, it gets a reply all the same."""
    expected = request.headers.get("Expect", "").lower()
    if expected == "100-continue" and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _unsure(request: web.Request) -> InvalidRequest | None:
    """What aiohttp's parsers, the one in Python above all, let pass, and others read in another way."""
    codings = request.headers.getall("Transfer-Encoding", [])
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        return InvalidRequest(
            "a body comes with a length or in chunks, in no other transfer coding"
        )
    if request.version.major != 1:
        return InvalidRequest("this is a server of HTTP/1.1")
    return None


def _translated(error: web.HTTPException, request: web.Request) -> EngineryError:
    """What aiohttp itself refused, as an error of ours."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("the body is too large")
    if error.status == 404:
        return EndpointNotSupported(f"there is nothing at {request.path}")
    translated = EngineryError(error.reason)
    translated.status = error.status
    return translated
