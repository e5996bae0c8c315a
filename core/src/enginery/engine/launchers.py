"""Launchers: the seam between "run this" and the machine that runs it.

A launcher gives an endpoint on its machine, starts a command there and hands back an `EngineHandle`.
`LocalLauncher` is this machine: one `EngineProcess` under a guardian for each engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Protocol

from enginery.engine.endpoints import endpoint_of_url, free_endpoint, unix_endpoint
from enginery.engine.listeners import listener_is_ours, socket_is_ours
from enginery.engine.memory import LocalMemory, activity
from enginery.engine.process import EngineProcess, ExitStatus
from enginery.engine.sockets import SocketDirectory
from enginery.settings.secrets import Redactor, looks_secret
from enginery.values import Command, Endpoint, StopPlan, Variant

__all__ = ["EngineHandle", "Launcher", "LocalLauncher"]


class EngineHandle(Protocol):
    """One launched engine."""

    @property
    def pid(self) -> int | None:
        """The engine's process id, where that means something."""
        ...

    async def exited(self) -> ExitStatus:
        """Returns when the engine ended by itself or was stopped; may be awaited by many."""
        ...

    async def gone(self) -> None:
        """Returns when nothing of it is left; may be awaited by many."""
        ...

    def log_tail(self, n: int = 20) -> list[str]:
        """Its last ``n`` lines."""
        ...

    def follow(self, tail: int = 0) -> AsyncGenerator[str]:
        """Its last ``tail`` lines, then each new one, until its end."""
        ...

    def activity(self) -> object:
        """Any value that changes while the engine makes progress: a sign of life."""
        ...

    def memory(self) -> Mapping[str, int]:
        """Bytes per device that it holds now, as far as that can be measured."""
        ...

    async def stop(self, plan: StopPlan) -> None:
        """Carry out ``plan``; returns when nothing is left.

        Raises:
            EngineLeaked: something is left.
        """
        ...

    async def owns(self, endpoint: Endpoint) -> bool | None:
        """Whether the listener at ``endpoint`` is this engine's; None: cannot tell (yet)."""
        ...


class Launcher(Protocol):
    """One machine."""

    async def reserve(self, variant: Variant) -> Endpoint:
        """Where the engine of ``variant`` is to listen, with a key of its own."""
        ...

    async def launch(
        self, command: Command, endpoint: Endpoint, name: str, on_line: Callable[[str], None]
    ) -> EngineHandle:
        """Start ``command``; returns when it runs, not when it is ready.

        Raises:
            EngineStartFailed: it cannot be run.
        """
        ...

    async def free_memory(self) -> Mapping[str, int]:
        """Free bytes per device; empty where nothing is known."""
        ...


class LocalLauncher:
    """This machine.

    Args:
        memory: what measures it; default: RAM and NVML.
        sockets: where unix sockets and engines' own folders are made; default: a directory of its own.
    """

    def __init__(
        self, memory: LocalMemory | None = None, sockets: SocketDirectory | None = None
    ) -> None:
        self._memory = memory or LocalMemory()
        self._sockets = sockets or SocketDirectory()

    async def reserve(self, variant: Variant) -> Endpoint:
        """A free port on 127.0.0.1, a unix socket, or the place that the variant's ``url`` names."""
        if variant.listen == "unix":
            return unix_endpoint(self._sockets.reserve(variant.id))
        fresh = free_endpoint()
        if variant.url is not None:
            return endpoint_of_url(variant.url, api_key=fresh.api_key)
        return fresh

    async def launch(
        self,
        command: Command,
        endpoint: Endpoint,
        name: str,
        on_line: Callable[[str], None],
    ) -> EngineHandle:
        """An `EngineProcess` under its guardian."""
        folder, env = None, command.env
        if command.folder_variable is not None and command.folder_variable not in env:
            folder = self._sockets.make_folder()
            env = env if folder is None else {**env, command.folder_variable: folder}
        process = EngineProcess(
            command.argv[0],
            command.argv[1:],
            command.cwd,
            env=env,
            name=name,
            stop_plan=command.stop_plan,
            stop_argv=command.stop_argv,
            log_level=command.log_level,
            on_line=on_line,
            hide=Redactor(_secrets(command, endpoint)),
        )
        try:
            await process.start()
        except BaseException:
            self._release(endpoint, folder)
            raise
        return _LocalHandle(process, self._memory, lambda: self._release(endpoint, folder))

    def _release(self, endpoint: Endpoint, folder: str | None) -> None:
        if endpoint.unix_path is not None:
            self._sockets.release(endpoint.unix_path)
        if folder is not None:
            self._sockets.remove_folder(folder)

    async def free_memory(self) -> Mapping[str, int]:
        """RAM, and NVIDIA devices where their library is installed."""
        return self._memory.free()

    def close(self) -> None:
        """Remove what unix sockets needed, once the engines are gone. A manager closes the one it made."""
        self._sockets.close()


def _secrets(command: Command, endpoint: Endpoint) -> Iterator[str]:
    """What an engine knows and must not print."""
    if endpoint.api_key is not None:
        yield endpoint.api_key
    yield from (value for name, value in command.env.items() if looks_secret(name))


class _LocalHandle:
    def __init__(
        self, process: EngineProcess, memory: LocalMemory, release: Callable[[], None]
    ) -> None:
        self._process = process
        self._memory = memory
        self._release = release
        self.pid = process.get_pid()

    async def exited(self) -> ExitStatus:
        return await self._process.wait()

    async def gone(self) -> None:
        await self._process.wait_gone()
        self._release()

    def log_tail(self, n: int = 20) -> list[str]:
        return self._process.log_tail(n)

    def follow(self, tail: int = 0) -> AsyncGenerator[str]:
        return self._process.log.follow(tail)

    def activity(self) -> object:
        seen = self._process.log.bytes_seen
        return seen if self.pid is None else (seen, *activity(self.pid))

    def memory(self) -> Mapping[str, int]:
        return {} if self.pid is None else self._memory.held_by_tree(self.pid)

    async def stop(self, plan: StopPlan) -> None:
        self._process.stop_plan = plan
        await self._process.stop(timeout=sum(wait for _, wait in plan.signals))
        self._release()

    async def owns(self, endpoint: Endpoint) -> bool | None:
        if self.pid is None:
            return None
        if endpoint.unix_path is not None:
            return socket_is_ours(self.pid, endpoint.unix_path)
        return listener_is_ours(self.pid, endpoint.port)  # 0.1 ms: no thread
