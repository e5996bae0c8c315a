"""Engines that exist only in memory, for tests of the manager: every outcome at the test's word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from enginery import (
    Command,
    Endpoint,
    EngineError,
    EngineHooks,
    EngineLeaked,
    EngineStartFailed,
    Health,
    Memory,
    PluginRegistry,
    Settings,
    StopPlan,
    Variant,
    hookimpl,
)
from enginery.engine.process import ExitStatus

__all__ = ["FakeLauncher", "FakeRegistry", "fake_settings"]


class NeedsDriver(EngineStartFailed):
    """An error of a plugin's own, with arguments of its own."""

    def __init__(self, driver: str, *, hint: str) -> None:
        super().__init__(f"{driver} is missing: {hint}")


class FakeHandle:
    """One launched engine, in memory."""

    def __init__(self, launcher: FakeLauncher, model: str, pid: int) -> None:
        self.pid = pid
        self.model = model
        self.launcher = launcher
        self.end: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()

    async def exited(self) -> ExitStatus:
        return await asyncio.shield(self.end)

    def die(self, status: ExitStatus) -> None:
        if not self.end.done():
            self.end.set_result(status)
            self.launcher.running.remove(self)

    async def gone(self) -> None:
        await self.exited()
        while self.model in self.launcher.undying:
            await asyncio.sleep(0)

    def log_tail(self, n: int = 20) -> list[str]:
        return [*self.launcher.printed, f"{self.model}: out of memory"][-n:]

    def activity(self) -> object:
        return self.launcher.looks

    def memory(self) -> Mapping[str, int]:
        return {}

    async def stop(self, plan: StopPlan) -> None:
        await asyncio.sleep(0)
        if self.model in self.launcher.undying:
            raise EngineLeaked(f"{self.model} (pid {self.pid}) survived SIGKILL")
        self.die(ExitStatus(code=0))

    async def owns(self, endpoint: Endpoint) -> bool | None:
        await asyncio.sleep(0)
        return endpoint.port not in self.launcher.squatted


class FakeLauncher:
    """A machine whose engines do as the test says."""

    def __init__(self) -> None:
        self.running: list[FakeHandle] = []
        self.launched: list[str] = []
        self.together = False
        self.ports = iter(range(20_000, 30_000))
        self.squatted: set[int] = set()
        self.dies_in_load: set[str] = set()
        self.hangs_in_load: set[str] = set()
        self.unwell: set[str] = set()
        self.undying: set[str] = set()
        self.needs_driver: set[str] = set()
        self.cannot_wake: set[str] = set()
        self.rests: list[str] = []
        self.sizes: dict[str, int] = {}
        self.late: dict[str, int] = {}
        self.asked_for_memory = 0
        self.looks = 0
        self.printed = ["loading"]
        self.cause_hint: str | None = None

    async def reserve(self, variant: Variant) -> Endpoint:
        await asyncio.sleep(0)
        return Endpoint("127.0.0.1", next(self.ports), api_key="key")

    async def launch(
        self, command: Command, endpoint: Endpoint, name: str, on_line: Callable[[str], None]
    ) -> FakeHandle:
        await asyncio.sleep(0)
        assert self.together or not self.running, (
            f"{name} beside {[handle.model for handle in self.running]}"
        )
        handle = FakeHandle(self, command.argv[0], pid=1000 + len(self.launched))
        self.running.append(handle)
        self.launched.append(handle.model)
        if handle.model in self.dies_in_load:
            handle.die(ExitStatus(code=7))
        return handle

    async def free_memory(self) -> Mapping[str, int]:
        """A device of 100 bytes; what an engine held comes back `late` looks after its end."""
        self.asked_for_memory += 1
        used = sum(self.sizes.get(handle.model, 0) for handle in self.running)
        here = {handle.model for handle in self.running}
        for model, looks in [item for item in self.late.items() if item[0] not in here]:
            used += self.sizes[model] if looks > 0 else 0
            self.late[model] = looks - 1
        return {"gpu0": 100 - used} if self.sizes else {}


class FakePlugin:
    """An engine_type whose engines are FakeHandles."""

    def __init__(self, launcher: FakeLauncher) -> None:
        self.launcher = launcher

    @hookimpl
    def build_command(self, variant):
        if variant.model in self.launcher.needs_driver:
            raise NeedsDriver("cuda", hint="install it")
        return Command([variant.model], cause_hint=self.launcher.cause_hint)

    @hookimpl
    async def check_health(self, engine):
        await asyncio.sleep(0)
        launcher = self.launcher
        if engine.variant.model in launcher.hangs_in_load:
            return Health("starting", detail="HTTP 503: Loading model")
        launcher.looks += 1
        first_look = launcher.looks % 2 == 1
        unwell = engine.variant.model in launcher.unwell
        return Health("starting" if first_look or unwell else "ready")

    @hookimpl
    def sleep_levels(self, variant):
        return (1, 2) if variant.model.startswith("sleepy") else ()

    @hookimpl
    async def sleep(self, engine, level):
        self.launcher.rests.append(f"sleep {engine.variant.model} {level}")

    @hookimpl
    async def wake_up(self, engine):
        self.launcher.rests.append(f"wake {engine.variant.model}")
        if engine.variant.model in self.launcher.cannot_wake:
            raise EngineError("wake_up answered 500")

    @hookimpl
    def estimate_memory(self, variant):
        size = self.launcher.sizes.get(variant.model)
        return None if size is None else Memory({"gpu0": size})


class FakeRegistry(PluginRegistry):
    """Offers exactly one engine_type, "fake"."""

    def __init__(self, launcher: FakeLauncher) -> None:
        super().__init__(path=[])
        self._fake = EngineHooks(FakePlugin(launcher), "fake")

    def hooks(self, engine_type: str) -> EngineHooks:
        return self._fake if engine_type == "fake" else super().hooks(engine_type)

    def engine_types(self) -> list[str]:
        return ["fake"]


def fake_settings(
    *, models: tuple[str, ...] = ("a", "b", "c"), budget: Any = None, **defaults: Any
) -> Settings:
    return Settings(
        models={name: {"engine": "fake"} for name in models},
        defaults={"engine": "fake", "min_residency": 0, **defaults},
        budget=budget,
    )
