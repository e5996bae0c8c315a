"""`EngineProcess`: one engine process under its guardians, seen from the manager's side.

Knows: starting, signalling, stopping and noticing the end of a process and all its descendants. Does
not know: readiness, HTTP, plugins, and which of the two guardians speaks. The exit is seen through
their socket, never by waiting for stdout to close: a grandchild that holds a pipe would hide it
(cpython#119710).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from enginery.engine.control import Control, ExitStatus
from enginery.engine.guardian import STOP_ARGV_PATIENCE
from enginery.engine.logs import EngineLog, LogReader
from enginery.errors import EngineLeaked, EngineStartFailed
from enginery.values import StopPlan

__all__ = ["EngineProcess", "ExitStatus"]

ProcessStatus = Literal["running", "stopped", "crashed"]

_GUARDIAN = Path(__file__).parent / "guardian" / "__main__.py"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

ORPHAN_GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL when the manager died: short, for nobody is there to wait."""

DRAIN_OUTPUT = 0.5
"""Seconds after the exit in which the last output is still read."""

START_PATIENCE = 20.0
"""Seconds for the guardian to start the engine's program; usually 15 ms."""

log = logging.getLogger("enginery.engine")


class EngineProcess:
    """One engine server process. Start it once, stop it any number of times.

    Args:
        binary_path: the program; looked up on PATH if it has no slash.
        args: its arguments; never passed through a shell.
        work_dir: working directory; None is ours.
        env: added to our environment.
        name: for the logger ``enginery.engine.<name>``; default: the program's file name.
        stop_plan: signals and waits; default: SIGTERM, 10 s, SIGKILL.
        stop_argv: run after the end, for engines that signals do not reach.
        log_level: the level of what the engine prints; ``"warning"``: stdout INFO, stderr WARNING.
        on_line: called with each line of output.
        hide: takes secrets out of a line before anybody gets it.
    """

    def __init__(
        self,
        binary_path: str | os.PathLike[str],
        args: Sequence[str] = (),
        work_dir: str | os.PathLike[str] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
        stop_plan: StopPlan | None = None,
        stop_argv: Sequence[str] | None = None,
        log_level: Literal["debug", "info", "warning"] = "warning",
        on_line: Callable[[str], None] | None = None,
        hide: Callable[[str], str] | None = None,
    ) -> None:
        self.binary_path = os.fspath(binary_path)
        self.args = tuple(args)
        self.work_dir = None if work_dir is None else os.fspath(work_dir)
        self.name = name or Path(self.binary_path).name
        self.stop_plan = stop_plan or StopPlan()
        self.started_at: float | None = None
        """When it was started, in seconds since the epoch."""
        self.exit: ExitStatus | None = None
        self.log = EngineLog(self.name, on_line, hide=hide)
        self._env = {**os.environ, **(env or {})}
        self._stop_argv = tuple(stop_argv or ())
        self._stderr_level = _LEVELS[log_level]
        self._stdout_level = min(self._stderr_level, logging.INFO)
        self._pid: int | None = None
        self._guardian_pids: tuple[int, ...] = ()
        self._control: Control | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopper: asyncio.Task[None] | None = None
        self._stop_asked = False
        self._start_over: asyncio.Future[None] | None = None
        self._readers: list[LogReader] = []

    # -- what callers ask ----------------------------------------------------------------------

    @property
    def guardian_pids(self) -> tuple[int, ...]:
        """The outer and the inner guardian's pids; empty unless it runs."""
        return self._guardian_pids if self.is_running else ()

    @property
    def is_running(self) -> bool:
        """True from a successful `start` until the end was seen."""
        return self._pid is not None and self.exit is None

    def get_pid(self) -> int | None:
        """The engine's own pid, not its guardian's; None before the start and after the end."""
        return self._pid if self.is_running else None

    def get_status(self) -> ProcessStatus:
        """``"crashed"`` is an end that nobody asked for, whatever the exit status."""
        if self.is_running:
            return "running"
        return "stopped" if self.exit is None or self._stop_asked else "crashed"

    def log_tail(self, n: int = 20) -> list[str]:
        """The last ``n`` lines of output, oldest first; still there after the end."""
        return self.log.tail(n)

    async def wait(self) -> ExitStatus:
        """Returns when the engine ended and its last output is read.

        Raises:
            RuntimeError: it was not started, or its start failed.
        """
        if self._control is None or self._pid is None:
            raise RuntimeError(f"{self.name} was never started")
        return await asyncio.shield(self._control.exited)

    async def wait_gone(self) -> None:
        """Returns when nothing of it is left: `wait` is the engine's end, this is its descendants' too.

        Raises:
            RuntimeError: it was not started.
        """
        if self._control is None:
            raise RuntimeError(f"{self.name} was never started")
        await asyncio.shield(self._control.gone)

    # -- starting ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start guardian and engine; returns when the program runs, not when it is ready.

        Raises:
            EngineStartFailed: the program is missing or may not be run.
            RuntimeError: it was started before.
        """
        if self._control is not None:
            raise RuntimeError(f"{self.name} was started before; make a new EngineProcess")
        loop = asyncio.get_running_loop()
        self._control = control = Control(loop)
        self._start_over = loop.create_future()
        try:
            await self._start(loop, control)
        finally:
            self._start_over.set_result(None)

    async def _start(self, loop: asyncio.AbstractEventLoop, control: Control) -> None:
        guardian, ours, pipes = self._spawn_guardian()
        levels = (self._stdout_level, self._stderr_level)
        self._readers = [LogReader(self.log, level) for level in levels]
        try:
            control.watch(ours)
            for reader, pipe in zip(self._readers, pipes, strict=True):
                reader.read(pipe)
            control.send(
                self.work_dir or "",
                str(ORPHAN_GRACE),
                str(len(self._stop_argv)),
                str(len(self._env)),
                *self._stop_argv,
                *(f"{name}={value}" for name, value in self._env.items()),
                self.binary_path,
                *self.args,
            )
            async with asyncio.timeout(START_PATIENCE):
                pid, inner = await control.started
        except BaseException as error:
            if isinstance(error, TimeoutError):
                guardian.kill()  # the inner one, if it came so far, kills the engine for it
            control.close()
            await asyncio.shield(self._close(guardian, drain=DRAIN_OUTPUT))
            for pipe in pipes:  # of which one may not have come so far
                pipe.close()
            if isinstance(error, TimeoutError):
                raise EngineStartFailed(f"{self.name}: guardian does not answer") from error
            if isinstance(error, EngineStartFailed) and self.log_tail():
                raise EngineStartFailed(error.message, log_tail=self.log_tail()) from error
            raise
        self._pid, self._guardian_pids = pid, (guardian.pid, inner)
        self.started_at = time.time()
        log.debug("%s: pid %d, guardians %d and %d", self.name, pid, guardian.pid, inner)
        self._watcher = loop.create_task(self._watch(guardian), name=f"watch {self.name}")

    def _spawn_guardian(self) -> tuple[subprocess.Popen[bytes], socket.socket, list[FileIO]]:
        """The guardian, our end of its socket, and the reading ends of the engine's output."""
        said = (
            self.work_dir or "",
            *self._stop_argv,
            self.binary_path,
            *self.args,
            *self._env.values(),
        )
        with ExitStack() as ours_on_error, ExitStack() as theirs:
            try:
                for word in map(os.fsencode, said):
                    if b"\0" in word:  # it would end the word, and begin another
                        raise ValueError("a NUL character in its command line")
                control, guardians = socket.socketpair()
                ours_on_error.enter_context(control)
                theirs.enter_context(guardians)
                control.setblocking(False)
                reads, writes = [], []
                for _ in ("stdout", "stderr"):
                    read, write = os.pipe()
                    reads.append(ours_on_error.enter_context(FileIO(read, "rb")))
                    writes.append(theirs.enter_context(FileIO(write, "wb")))
                guardian = subprocess.Popen(  # a vfork, 1 ms; asyncio's own cannot pass our pipes
                    [
                        *(sys.executable, "-I", "-S", str(_GUARDIAN)),
                        *(str(guardians.fileno()), str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=writes[0],
                    stderr=writes[1],
                    pass_fds=(guardians.fileno(),),
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:  # ValueError: NUL and the like in words or env
                raise EngineStartFailed(f"{self.name} cannot be started: {error}") from error
            ours_on_error.pop_all()
        return guardian, control, reads

    # -- stopping ------------------------------------------------------------------------------

    async def stop(self, timeout: float = 10.0) -> None:
        """Carry out the stop plan, its waits cut to ``timeout`` seconds in all, then kill.

        Returns when the engine and every descendant are gone, and ``stop_argv`` has run. Safe to call
        at any time (a start under way is finished first), by several callers, who join the first
        one's plan, and to cancel: the stop goes on.

        Raises:
            EngineLeaked: it survived SIGKILL for the plan's ``kill_after`` seconds.
        """
        if self._control is None:
            return
        if not self._control.ended.done():
            self._stop_asked = True
        if self._stopper is None:
            plan = self.stop_plan.capped(timeout)
            self._stopper = asyncio.get_running_loop().create_task(
                self._carry_out(plan), name=f"stop {self.name}"
            )
        await asyncio.shield(self._stopper)

    async def _carry_out(self, plan: StopPlan) -> None:
        assert self._control is not None
        control = self._control
        if self._start_over is not None:
            await self._start_over
        if self._pid is None:
            return  # the start failed, and cleaned up behind itself
        for number, wait in plan.signals:
            if not self.is_running:
                break
            control.send("signal", str(number))
            if await _within(wait, control.exited):
                break
        if plan.signals and self.is_running:
            log.warning("%s did not end within its stop plan: SIGKILL", self.name)
        if not control.ended.done():  # else the guardian kills what is left by itself
            control.send("kill")
        patience = plan.kill_after + (STOP_ARGV_PATIENCE if self._stop_argv else 0.0)
        if not await _within(patience, control.gone):
            self._stopper = None
            raise EngineLeaked(f"{self.name} (pid {self._pid}) survived SIGKILL")
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    # -- the end -------------------------------------------------------------------------------

    async def _watch(self, guardian: subprocess.Popen[bytes]) -> None:
        """Lives as long as the engine: sees its end, reads its last words, reaps the outer guardian."""
        assert self._control is not None
        control = self._control
        await control.ended
        await self._drain_output(DRAIN_OUTPUT)
        self.exit = control.status or ExitStatus()
        control.exited.set_result(self.exit)
        level = logging.INFO if self._stop_asked else logging.WARNING
        log.log(level, "%s ended: %s", self.name, self.exit)
        await control.gone
        await self._close(guardian)

    async def _drain_output(self, seconds: float) -> None:
        await asyncio.wait([reader.closed for reader in self._readers], timeout=seconds)

    async def _close(self, guardian: subprocess.Popen[bytes], drain: float = 0.0) -> None:
        if drain:
            await self._drain_output(drain)
        for reader in self._readers:
            reader.close()
        self.log.close()
        pause = 0.001
        while guardian.poll() is None:  # it only waits for the inner one's exit: a few turns
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)
        assert self._control is not None
        self._control.close()


async def _within(seconds: float, future: asyncio.Future[Any]) -> bool:
    """True when ``future`` is done in time; it is not cancelled when not."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
