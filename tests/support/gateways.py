"""A manager and its gateway for tests: in the test's own loop, or in a thread for blocking clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self

from enginery import EngineManager, Settings
from enginery.gateway import Gateway

__all__ = ["GatewayThread", "in_flight", "serving"]

QUICK = {"engine": "mock", "min_residency": 0, "drain_timeout": 5, "shutdown_timeout": 0.1}
ROOM = {"budget": {"ram": 2**40}}


@asynccontextmanager
async def serving(
    models: dict[str, Any],
    *,
    fast: bool = True,
    heartbeat: float = 10.0,
    server: dict[str, Any] | None = None,
    together: bool = False,
    **defaults: Any,
) -> AsyncIterator[Gateway]:
    """``together``: engines run beside each other, where they say ``memory``."""
    settings = Settings(
        models=models,
        defaults={**QUICK, **defaults},
        server=server or {},
        **(ROOM if together else {}),
    )
    async with (
        EngineManager(settings) as manager,
        Gateway(manager, port=0, fast=fast, heartbeat=heartbeat) as gateway,
    ):
        yield gateway


def in_flight(gateway: Gateway) -> int:
    return sum(row.in_flight for row in gateway.manager.status())


class GatewayThread:
    """`serving` on a loop of its own; a context manager for tests that block."""

    def __init__(self, models: dict[str, Any], **how: Any) -> None:
        self._models, self._how = models, how
        self._thread = threading.Thread(target=self._run, name="gateway")
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._over: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self.gateway: Gateway
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run it on the gateway's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again where the test stands
            self._error = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._models, **self._how) as self.gateway:
            self.url = self.gateway.base_url
            self._up.set()
            await self._over.wait()
