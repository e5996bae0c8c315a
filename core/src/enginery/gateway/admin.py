"""The operators' routes under ``/api``, and ``/metrics``.

Knows: their shapes. Does not know: who may ask (`access` has let them in), or how engines are run. A model is looked
up by its name, its alias or an instance's id; nothing of a request ever becomes a path. What is read is never
acted on: load and unload go to the manager, and the row that answers is only shown.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from enginery.api.sse import encode_comment
from enginery.engine.catalog import ModelEntry
from enginery.engine.events import EngineEvent
from enginery.engine.manager import EngineManager
from enginery.engine.status import InstanceStatus
from enginery.errors import (
    AccessDenied,
    ConfigError,
    EngineryError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
)
from enginery.gateway.answers import SERVER, json_response
from enginery.gateway.doorway import let_read, visitor_of
from enginery.gateway.exposition import Exposition
from enginery.gateway.request_head import REQUEST_ID
from enginery.lifecycle import State
from enginery.settings.secrets import Redactor, secrets_of, shown
from enginery.values import JSONObject, Variant

__all__ = ["AdminRoutes"]

LINES = 100
"""Lines of a log that are shown unless asked otherwise, and at most so many thousand."""

MOST_LINES = 1000
LARGEST_BODY = 64 * 1024

log = logging.getLogger("enginery.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def _whatever(_: web.Request) -> None:
    """See `models`."""


class AdminRoutes:
    """The routes that show and change the engine room.

    Args:
        manager: whose.
        exposition: what ``/metrics`` shows.
        heartbeat: seconds between two signs of life on a stream that is quiet.
    """

    def __init__(self, manager: EngineManager, exposition: Exposition, *, heartbeat: float) -> None:
        self._manager = manager
        self._exposition = exposition
        self._heartbeat = heartbeat
        self._ordered: set[asyncio.Task[None]] = set()

    def add_to(self, app: web.Application) -> None:
        """Register the routes; those of a reload are `reloading`'s."""
        self._add(app, "GET", "/metrics", self.metrics, admin=False)
        self._add(app, "GET", "/api/engines", self.engines)
        self._add(app, "POST", "/api/models/{model:.+}/load", self.load)
        self._add(app, "POST", "/api/models/{model:.+}/unload", self.unload)
        self._add(app, "GET", "/api/models/{model:.+}/logs", self.logs)
        self._add(app, "GET", "/api/events", self.events)
        self._add(app, "GET", "/api/config", self.config)
        self._add(app, "GET", "/api/plugins", self.plugins)

    def _add(
        self, app: web.Application, method: str, path: str, handler: Handler, *, admin: bool = True
    ) -> None:
        async def checked(request: web.Request) -> web.StreamResponse:
            visitor = visitor_of(request)
            if admin and not visitor.admin:  # `access` sees to it; this holds if a path is odd
                raise AccessDenied(f"{request.path} is for admins")
            if request.method not in {method, "HEAD" if method == "GET" else method}:
                raise MethodNotAllowed(f"{request.path} takes {method}, not {request.method}")
            return await handler(request)

        app.router.add_route("*", path, checked, expect_handler=_whatever)

    def close(self) -> None:
        """Nobody waits for what was ordered with ``?wait=0`` any more."""
        for task in list(self._ordered):
            task.cancel()
        self._exposition.engines.close()

    # -- what there is -----------------------------------------------------------------------------

    async def metrics(self, request: web.Request) -> web.Response:
        """The numbers, for Prometheus; not for keys that know some models only."""
        visitor = visitor_of(request)
        if visitor.models is not None and not visitor.admin:
            raise AccessDenied("/metrics is asked with a key for all models", code="admin_required")
        body, content_type = await self._exposition.page(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def engines(self, _: web.Request) -> web.Response:
        """One row for each instance that was ever started."""
        return json_response({"engines": [_row(row) for row in self._manager.status()]})

    async def plugins(self, _: web.Request) -> web.Response:
        """Every plugin that is installed; one that nobody has used yet is not imported for this."""
        rows = self._manager.registry.rows(load=False)
        return json_response({"plugins": [asdict(row) for row in rows]})

    async def config(self, _: web.Request) -> web.Response:
        """The settings in force, without their secrets."""
        settings = self._manager.settings
        values = Redactor(secrets_of(settings))(json.dumps(shown(settings), ensure_ascii=False))
        file = None if settings.file is None else str(settings.file)
        return json_response({"file": file, "settings": json.loads(values)})

    # -- load and unload ---------------------------------------------------------------------------

    async def load(self, request: web.Request) -> web.Response:
        """Make a model's engine ready, and show its row; ``?wait=0``: only begin."""
        entry, variant = self._find(request)
        asked = await _object(request)
        variant = _variant_of(entry, asked.get("variant", variant))
        if not _waits(request):
            self._order(self._manager.load(entry.name, variant), f"load {entry.name}")
            await asyncio.sleep(0)
            return json_response(self._row_of(entry, variant), status=202)
        await self._manager.load(entry.name, variant)
        return json_response(self._row_of(entry, variant))

    async def unload(self, request: web.Request) -> web.Response:
        """Stop a model's engines, after their requests; ``{"drain": false}``: at once."""
        entry, variant = self._find(request)
        asked = await _object(request)
        variant = _variant_of(entry, asked.get("variant", variant))
        drain = asked.get("drain", True)
        if not isinstance(drain, bool):
            raise InvalidRequest("drain is true or false", param="drain")
        unloading = self._manager.unload(entry.name, variant, drain=drain)
        if not _waits(request):
            self._order(unloading, f"unload {entry.name}")
            await asyncio.sleep(0)
            return json_response(self._row_of(entry, variant), status=202)
        await unloading
        return json_response(self._row_of(entry, variant))

    def _order(self, work: Any, name: str) -> None:
        async def carried_out() -> None:
            try:
                await work
            except EngineryError as error:
                log.warning("%s: %s", name, error.message)

        task = asyncio.create_task(carried_out(), name=name)
        self._ordered.add(task)
        task.add_done_callback(self._ordered.discard)

    # -- streams -----------------------------------------------------------------------------------

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """What a model's engines printed, as lines; ``?lines=N``; ``?follow=1``: and what they will."""
        entry, name = self._find(request)
        variants = entry.variants if name is None else (entry.variant(name),)
        text = request.query.get("lines", str(LINES))
        if not (text.isascii() and text.isdigit() and int(text[:9]) <= MOST_LINES):
            raise InvalidRequest(f"lines is a number from 0 to {MOST_LINES}", param="lines")
        lines, inspection = int(text), self._manager.inspection
        if request.query.get("follow", "0") in {"", "0", "false"}:
            tail = inspection.log_tail(variants, lines)
            body = "".join(f"{line}\n" for line in tail)
            return web.Response(text=body, headers={"X-Content-Type-Options": "nosniff"})
        response = await _begin(request, "text/plain; charset=utf-8")
        async with aclosing(inspection.follow_log(variants, lines)) as following:
            async for line in following:
                await response.write(line.encode("utf-8", "replace") + b"\n")
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Everything that happens from now on, as server-sent events."""
        told = self._manager.inspection.subscribe()
        response = await _begin(request, "text/event-stream")
        await response.write(encode_comment("enginery"))
        async for event in _with_pauses(told, self._heartbeat):
            if event is None:
                await response.write(encode_comment("keep-alive"))
            else:
                await response.write(b"id: %d\ndata: %b\n\n" % (event.seq, _event(event)))
        return response

    # -- inside ------------------------------------------------------------------------------------

    def _find(self, request: web.Request) -> tuple[ModelEntry, str | None]:
        """The model that a path names, and the variant, where it names one: ``model/variant``."""
        name, catalog = request.match_info["model"], self._manager.catalog
        try:
            return catalog.resolve(name), None
        except ModelNotFound:
            model, slash, variant = name.rpartition("/")
            if slash:
                with suppress(ModelNotFound, ConfigError):
                    entry = catalog.resolve(model)
                    entry.variant(variant)
                    return entry, variant
            raise

    def _row_of(self, entry: ModelEntry, variant: str | None) -> JSONObject:
        """The row that says most of this model: of one that serves, else the one whose state is youngest."""
        wanted = entry.variants if variant is None else (entry.variant(variant),)
        ids = {one.id for one in wanted}
        rows = [row for row in self._manager.status() if row.id in ids]
        if not rows:
            return _row(_never_started(wanted[0]))
        return _row(max(rows, key=lambda row: (row.state == State.READY, row.pid is not None)))


def _row(row: InstanceStatus) -> JSONObject:
    return asdict(row)


def _never_started(variant: Variant) -> InstanceStatus:
    return InstanceStatus(
        id=variant.id,
        model=variant.model,
        variant=variant.name,
        engine=variant.engine_type,
        state=str(State.STOPPED),
        reason="",
        pid=None,
        address=None,
        in_flight=0,
        queued=0,
        memory=None,
        idle_s=None,
        ttl_left_s=None,
        retry_in_s=None,
        quarantined=False,
        started_at=None,
        starts=0,
        restarts=0,
        last_error=None,
    )


def _variant_of(entry: ModelEntry, name: object) -> str | None:
    if name is None:
        return None
    try:
        return entry.variant(str(name)).name
    except ConfigError as error:
        raise InvalidRequest(error.message, param="variant") from None


def _waits(request: web.Request) -> bool:
    return request.query.get("wait", "1") not in {"0", "false"}


async def _object(request: web.Request) -> JSONObject:
    """The body, an object or nothing."""
    raw = await request.content.read(LARGEST_BODY + 1)
    while len(raw) <= LARGEST_BODY and not request.content.at_eof():
        raw += await request.content.read(LARGEST_BODY + 1 - len(raw))
    if not raw.strip():
        return {}
    found: Any = None
    if len(raw) <= LARGEST_BODY:
        with suppress(msgspec.MsgspecError, RecursionError):
            found = msgspec.json.decode(raw)
    if not isinstance(found, dict):
        raise InvalidRequest("the body must be a JSON object, or nothing")
    return found


async def _begin(request: web.Request, content_type: str) -> web.StreamResponse:
    """The head of a stream of ours."""
    response = web.StreamResponse()
    response.headers.update(
        {
            "Content-Type": content_type,
            "Cache-Control": "no-cache",
            "Server": SERVER,
            "X-Accel-Buffering": "no",
            "X-Content-Type-Options": "nosniff",
            "x-request-id": request[REQUEST_ID],
        }
    )
    let_read(request, response)
    await response.prepare(request)
    return response


async def _with_pauses(
    events: AsyncIterator[EngineEvent], pause: float
) -> AsyncIterator[EngineEvent | None]:
    """The events, and None where none came for ``pause`` seconds."""
    following = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=pause)
            if not done:
                yield None
                continue
            event = following.result()
            if event is None:
                return
            yield event
            following = asyncio.ensure_future(anext(events, None))
    finally:
        following.cancel()


def _event(event: EngineEvent) -> bytes:
    instance = event.variant
    told = {
        **event.data,
        "seq": event.seq,
        "at": event.at,
        "type": event.type,
        "model": event.model,
        "variant": None if instance is None else instance.rpartition("/")[2],
        "instance": instance,
    }
    return json.dumps(told, ensure_ascii=False, default=str).encode("utf-8", "replace")
