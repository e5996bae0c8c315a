"""Reading the settings again while the gateway runs: checked, compared, then lived by, or left alone.

Knows: the order: read, check all of it, engines, doors. A file that is wrong changes nothing, and the event says
where it is wrong. Does not know: who asks for it (a signal, a request, a watched file), or what a change means for
engines (`EngineManager.apply`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict

from aiohttp import web

from enginery.engine.changes import Changes
from enginery.engine.manager import EngineManager
from enginery.errors import (
    AccessDenied,
    ConfigError,
    EngineryError,
    MethodNotAllowed,
    UnsupportedOperation,
)
from enginery.gateway.answers import json_response
from enginery.gateway.doorway import visitor_of
from enginery.settings import ServerSettings, Settings, load_settings
from enginery.settings.secrets import Redactor, secrets_of
from enginery.threads import in_daemon_thread
from enginery.values import JSONObject

__all__ = ["Reloading", "changes_as_json"]

log = logging.getLogger("enginery.gateway")


class Reloading:
    """One gateway's.

    Args:
        manager: whose settings.
        check: raises `ConfigError` where the gateway could not live by these.
        adopt: makes the gateway live by them.
        read: gives the settings as they are written now; default: the file's that the manager's came from.
    """

    def __init__(
        self,
        manager: EngineManager,
        *,
        check: Callable[[ServerSettings], None],
        adopt: Callable[[ServerSettings], None],
        read: Callable[[], Settings] | None = None,
    ) -> None:
        self._manager = manager
        self._check = check
        self._adopt = adopt
        self._own_read = read
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_route("*", "/api/config/plan", self._plan_asked)
        app.router.add_route("*", "/api/config/reload", self._reload_asked)

    async def plan(self) -> Changes:
        """What `reload` would change now; nothing is.

        Raises:
            ConfigError: what is written is wrong; a line for each problem, with its place.
            UnsupportedOperation: the settings came from no file.
        """
        return self._planned(await self._read())[0]

    async def reload(self) -> Changes:
        """Live by what is written now; the event ``config.reloaded`` or ``config.rejected`` tells it.

        Raises:
            ConfigError, UnsupportedOperation, ShuttingDown: nothing has changed; see `plan`.
        """
        async with self._one_at_a_time:
            try:
                settings = await self._read()
                self._check(settings.server)
                before = self._manager.settings
                changes = self._manager.apply(settings)
                self._adopt(settings.server)
            except EngineryError as error:
                log.error("the settings are left as they were: %s", error.message)  # noqa: TRY400  # the user's
                self._tell("config.rejected", reason=error.message)
                raise
        told = changes_as_json(changes, before, settings)
        log.info("settings reloaded: %s", _summary(changes))
        self._tell("config.reloaded", **told)
        return changes

    # -- over HTTP ---------------------------------------------------------------------------------

    async def _plan_asked(self, request: web.Request) -> web.Response:
        _let_in(request, "GET")
        try:
            return json_response(self._planned(await self._read())[1])
        except ConfigError as error:
            raise _as_told(error) from error

    async def _reload_asked(self, request: web.Request) -> web.Response:
        _let_in(request, "POST")
        before = self._manager.settings
        try:
            changes = await self.reload()
        except ConfigError as error:
            raise _as_told(error) from error
        return json_response(changes_as_json(changes, before, self._manager.settings))

    # -- inside ------------------------------------------------------------------------------------

    def _planned(self, settings: Settings) -> tuple[Changes, JSONObject]:
        self._check(settings.server)
        changes = self._manager.plan(settings)
        return changes, changes_as_json(changes, self._manager.settings, settings)

    async def _read(self) -> Settings:
        read, file = self._own_read, self._manager.settings.file
        if read is None:
            if file is None:
                raise UnsupportedOperation(
                    "the settings came from no file that could be read again"
                )
            path = file

            def read() -> Settings:
                return load_settings(path)

        return await in_daemon_thread(read, "read the settings")

    def _tell(self, type_: str, **data: object) -> None:
        file = self._manager.settings.file
        self._manager.inspection.publish(
            type_, None, None, file=None if file is None else str(file), **data
        )


def changes_as_json(changes: Changes, before: Settings, after: Settings) -> JSONObject:
    """The changes from ``before`` to ``after`` for pages and programs, without secrets of either."""
    hide = Redactor(secrets_of(before) | secrets_of(after))
    told: JSONObject = json.loads(hide(json.dumps(asdict(changes), ensure_ascii=False)))
    return told


def _summary(changes: Changes) -> str:
    count = len(changes.settings)
    parts = [f"{count} setting{'' if count == 1 else 's'}"]
    parts += [f"{change.id} {change.fate}" for change in changes.variants]
    if changes.later:
        parts.append(f"only at the next start: {', '.join(changes.later)}")
    return ", ".join(parts)


def _let_in(request: web.Request, method: str) -> None:
    if not visitor_of(request).admin:  # `access` sees to it; this holds if a path is odd
        raise AccessDenied(f"{request.path} is for admins", code="admin_required")
    if request.method != method:
        raise MethodNotAllowed(f"{request.path} takes {method}, not {request.method}")


def _as_told(error: ConfigError) -> ConfigError:
    """For the one who asked the mistake is in the file, not in the server."""
    told = ConfigError(error.message, param=error.param)
    told.status = 400
    return told
