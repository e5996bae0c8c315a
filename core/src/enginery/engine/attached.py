"""Servers that somebody else runs: attached to by ``url``, never started, never stopped.

Knows: how such a server stands in where an engine of ours would be, and when it is asked how it is.
Decides nothing: each look is reported, and the scheduler decides. "Start" is a first look; "stop" ends
the looking. A look is made every ten seconds, sooner after one that failed (0.5 s, doubled each time),
and at once when somebody wants the server or a request to it failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping

from enginery.engine.control import ExitStatus
from enginery.engine.endpoints import endpoint_of_url
from enginery.engine.instance import EngineInstance
from enginery.engine.launchers import EngineHandle
from enginery.engine.readiness import pause
from enginery.engine.seam import Lost, Ready
from enginery.errors import EngineryError, EngineUnreachable
from enginery.values import Command, Endpoint, Health, RunningEngine, StopPlan, Variant

__all__ = ["AttachLauncher", "AttachedInstance", "next_look_in"]

EVERY, SOONEST = 10.0, 0.5
RETRY_AFTER = 1.0


def next_look_in(failures: int) -> float:
    """Seconds until the next look, after so many in a row that failed."""
    return EVERY if not failures else min(EVERY, SOONEST * 2.0 ** min(failures - 1, 10))


class AttachLauncher:
    """Every machine that somebody else runs servers on: nothing is launched there."""

    async def reserve(self, variant: Variant) -> Endpoint:
        """What the variant's ``url`` names, with the variant's key."""
        assert variant.url is not None
        return endpoint_of_url(variant.url, api_key=variant.api_key)

    async def launch(
        self,
        command: Command,  # noqa: ARG002  # the protocol's
        endpoint: Endpoint,  # noqa: ARG002  # the protocol's
        name: str,  # noqa: ARG002  # the protocol's
        on_line: Callable[[str], None],  # noqa: ARG002  # the protocol's
    ) -> EngineHandle:
        """A handle that holds nothing."""
        return _AttachedHandle()

    async def free_memory(self) -> Mapping[str, int]:
        """Nothing is known."""
        return {}


class _AttachedHandle:
    """What is left of an `EngineHandle` where nothing was launched."""

    pid = None

    async def exited(self) -> ExitStatus:
        never: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        return await never

    async def gone(self) -> None:
        await self.exited()

    def log_tail(self, n: int = 20) -> list[str]:  # noqa: ARG002  # the protocol's
        return []

    async def follow(self, tail: int = 0) -> AsyncGenerator[str]:  # noqa: ARG002  # the protocol's
        """Nothing of it is ours to read."""
        nothing: tuple[str, ...] = ()
        for line in nothing:
            yield line

    def activity(self) -> object:
        return None

    def memory(self) -> Mapping[str, int]:
        return {}

    async def stop(self, plan: StopPlan) -> None:
        """Leave it alone."""

    async def owns(self, endpoint: Endpoint) -> bool | None:  # noqa: ARG002  # the protocol's
        """The user says so."""
        return True


class AttachedInstance(EngineInstance):
    """An `EngineInstance` whose server is not ours: `Ready` or `Lost` follows `start` and each look."""

    _wanted: asyncio.Event

    def start(self) -> None:
        """Look for the first time, and then now and then."""
        self._wanted = asyncio.Event()
        super().start()

    def probe(self) -> None:
        """Look now."""
        self._wanted.set()

    async def _live(self) -> None:
        name, generation = self.variant.id, self.generation
        wanted = self._wanted
        self.endpoint = await self._launcher.reserve(self.variant)
        self.command = Command(())  # its health path is the usual one; else models are asked for
        self.handle = await self._launcher.launch(self.command, self.endpoint, name, lambda _: None)
        failures, again = 0, False
        while True:
            wanted.clear()
            health = await self._look(self._running())
            again = health.state != "ready" and wanted.is_set() and not again
            if again:
                continue  # who wants it since then is not told how it was before
            if health.state == "ready":
                failures = 0
                self._report(Ready(name, generation))
            else:
                failures += 1
                self._report(Lost(name, generation, self._unreachable(health)))
            await pause(next_look_in(failures), self._clock, wanted)

    def _unreachable(self, health: Health) -> EngineUnreachable:
        assert self.endpoint is not None
        at, said = self.endpoint.base_url, health.detail or health.state
        why = f"{self.variant.id} does not serve at {at}: {said.removeprefix(f'{at}: ')}"
        return EngineUnreachable(why, retry_after=RETRY_AFTER)

    async def _look(self, engine: RunningEngine) -> Health:
        try:
            return await super()._look(engine)
        except EngineryError as error:  # a plugin's own fault must not end the looking
            return Health("failed", detail=error.message)
