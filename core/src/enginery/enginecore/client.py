"""`EngineCoreClient`: what an application can ask of an engine core, wherever the core runs.

Knows: the methods, their arguments and errors; all calls by name are written here once. Does not know: where the core
runs or how it is reached. A client implements the sync half, the async half, or both; the other half raises
`UnsupportedOperation` and names the class to use. Nothing is a silent no-op: what a backend lacks raises, too.
"""

# ruff: noqa: ARG002  # the half that a client lacks has its arguments all the same
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Literal, NoReturn, Self

from enginery.enginecore.config import ClientConfig
from enginery.enginecore.messages import (
    Capabilities,
    EngineCoreOutputs,
    EngineCoreRequest,
    PauseMode,
)
from enginery.errors import UnsupportedOperation

__all__ = ["EngineCoreClient", "ShutdownMode", "patience"]

ShutdownMode = Literal["abort", "drain"]


CLOSE_PATIENCE = 5.0
"""Seconds that an orderly end may take, beyond what a drain was given."""


def patience(mode: ShutdownMode, timeout: float | None) -> float:
    """Seconds after which a core that was asked to end is killed."""
    if mode == "abort":
        return CLOSE_PATIENCE if timeout is None else timeout
    return math.inf if timeout is None else CLOSE_PATIENCE + timeout


class EngineCoreClient(ABC):
    """A client of one engine core, which it owns. Made by `create_client` or by its class.

    Any method raises `EngineClosedError` after `shutdown`, and `EngineDeadError` once the core is dead (with exit
    code, signal and last lines of output); `get_output` first gives what is left. Timeouts are seconds; a
    ``timeout`` of None is ``config.timeout_s``, and a `TimeoutError` changes nothing: the call may be repeated.

    Every accepted request has exactly one last output, the one with a ``finish_reason``: ``stop`` or ``length``;
    ``abort`` after `abort_requests`, pause, sleep or shutdown; ``error`` with the reason, also when the core dies.
    """

    has_sync: ClassVar[bool] = False
    has_async: ClassVar[bool] = False

    config: ClientConfig

    # -- the life of a client ------------------------------------------------------------------

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the core can do. AsyncMPClient knows it after the first awaited call."""

    @property
    @abstractmethod
    def unfinished(self) -> int:
        """Requests whose last output was not read yet: fetch outputs while there are any."""

    @abstractmethod
    def shutdown(self, timeout: float | None = None, mode: ShutdownMode = "abort") -> None:
        """End the core and everything of it; works on every client, any number of times.

        ``abort`` ends each request at once; a core that is not gone after ``timeout`` seconds (None: 5) is
        killed. ``drain`` lets requests finish, for ``timeout`` seconds at most (None: as long as it takes),
        and takes no new ones. Outputs that were not read can be read afterwards.
        """

    async def shutdown_async(
        self, timeout: float | None = None, mode: ShutdownMode = "abort"
    ) -> None:
        """`shutdown` without blocking the event loop."""
        self._refuse("shutdown_async")

    def __enter__(self) -> Self:
        if not self.has_sync:
            self._refuse("with")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        if not self.has_async:
            self._refuse("async with")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown_async()

    # -- requests ------------------------------------------------------------------------------

    def get_output(self, timeout: float | None = None) -> EngineCoreOutputs:
        """The next outputs; several steps in one if they were not fetched meanwhile. Never an empty batch.

        Raises TimeoutError when there is none in time.
        """
        self._refuse("get_output")

    async def get_output_async(self, timeout: float | None = None) -> EngineCoreOutputs:
        """`get_output`. Cancelling it loses no output."""
        self._refuse("get_output_async")

    def add_request(self, request: EngineCoreRequest) -> str:
        """Queue a request and return its id. It is accepted also while the core sleeps, and waits then.

        Raises `InvalidRequest` (a ValueError) for a taken id or a prompt that is too long, and
        `UnsupportedOperation` for a form of prompt that the backend does not take. What only the core can find
        wrong arrives as the request's output, with ``error``.
        """
        self._refuse("add_request")

    async def add_request_async(self, request: EngineCoreRequest) -> str:
        """`add_request`."""
        self._refuse("add_request_async")

    def abort_requests(self, request_ids: Sequence[str]) -> list[str]:
        """End requests; their last outputs are there at once. Returns the ids that were unfinished.

        Others are ignored. It never raises: of a dead or closed core, nothing is unfinished.
        """
        self._refuse("abort_requests")

    async def abort_requests_async(self, request_ids: Sequence[str]) -> list[str]:
        """`abort_requests`."""
        self._refuse("abort_requests_async")

    # -- calls by name -------------------------------------------------------------------------

    def call_utility(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """Any call by name, with plain values (JSON); also those that only this backend has."""
        self._refuse("call_utility")

    async def call_utility_async(
        self, method: str, args: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Any:
        """`call_utility`."""
        self._refuse("call_utility_async")

    def profile(
        self, is_start: bool = True, prefix: str | None = None, max_iterations: int | None = None
    ) -> Any:
        """Start or stop the profiler; stopping returns what it found, as the backend has it."""
        return self.call_utility("profile", _profile(is_start, prefix, max_iterations))

    async def profile_async(
        self, is_start: bool = True, prefix: str | None = None, max_iterations: int | None = None
    ) -> Any:
        """`profile`."""
        return await self.call_utility_async("profile", _profile(is_start, prefix, max_iterations))

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget cached prefixes; False, and nothing happened, while some are in use.

        With ``reset_running_requests`` running requests are put back and computed again; nothing of their
        replies changes.
        """
        return bool(
            self.call_utility("reset_prefix_cache", _reset(reset_running_requests, reset_connector))
        )

    async def reset_prefix_cache_async(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """`reset_prefix_cache`."""
        args = _reset(reset_running_requests, reset_connector)
        return bool(await self.call_utility_async("reset_prefix_cache", args))

    def sleep(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """Pause, then free memory: level 0 none, 1 all but a copy of the weights in RAM, 2 all."""
        self.call_utility("sleep", {"level": level, "mode": mode})

    async def sleep_async(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """`sleep`."""
        await self.call_utility_async("sleep", {"level": level, "mode": mode})

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Bring back ``"weights"``, ``"kv_cache"`` or, by None, all; True when it is fully awake again."""
        return bool(self.call_utility("wake_up", _tags(tags)))

    async def wake_up_async(self, tags: Sequence[str] | None = None) -> bool:
        """`wake_up`."""
        return bool(await self.call_utility_async("wake_up", _tags(tags)))

    def is_sleeping(self) -> bool:
        """True while it sleeps at any level, or is paused."""
        return bool(self.call_utility("is_sleeping"))

    async def is_sleeping_async(self) -> bool:
        """`is_sleeping`."""
        return bool(await self.call_utility_async("is_sleeping"))

    def execute_dummy_batch(self) -> None:
        """One step of one made-up sequence, as a warm-up or a deep check; refused while asleep."""
        self.call_utility("execute_dummy_batch")

    async def execute_dummy_batch_async(self) -> None:
        """`execute_dummy_batch`."""
        await self.call_utility_async("execute_dummy_batch")

    def pause(self, mode: PauseMode = "abort", clear_cache: bool = True) -> None:
        """Hold new requests; running ones end (``abort``), finish first (``wait``) or stand still (``keep``)."""
        self.call_utility("pause", {"mode": mode, "clear_cache": clear_cache})

    async def pause_async(self, mode: PauseMode = "abort", clear_cache: bool = True) -> None:
        """`pause`."""
        await self.call_utility_async("pause", {"mode": mode, "clear_cache": clear_cache})

    def resume(self) -> None:
        """Go on after `pause`."""
        self.call_utility("resume")

    async def resume_async(self) -> None:
        """`resume`."""
        await self.call_utility_async("resume")

    def check_health(self) -> None:
        """Raise if the core cannot go on; a core that answers is alive, asleep or not."""
        self.call_utility("check_health")

    async def check_health_async(self) -> None:
        """`check_health`."""
        await self.call_utility_async("check_health")

    def get_stats(self) -> dict[str, float]:
        """Numbers of the core and its backend; see `EngineCore.get_stats`."""
        return dict(self.call_utility("get_stats"))

    async def get_stats_async(self) -> dict[str, float]:
        """`get_stats`."""
        return dict(await self.call_utility_async("get_stats"))

    def _refuse(self, what: str) -> NoReturn:
        other = "AsyncMPClient" if self.has_sync else "SyncMPClient"
        raise UnsupportedOperation(
            f"{type(self).__name__} has no {what}: use {other}, or InprocClient, which has both halves"
        )


def _profile(is_start: bool, prefix: str | None, max_iterations: int | None) -> dict[str, Any]:
    return {"is_start": is_start, "prefix": prefix, "max_iterations": max_iterations}


def _reset(running: bool, connector: bool) -> dict[str, Any]:
    return {"reset_running_requests": running, "reset_connector": connector}


def _tags(tags: Sequence[str] | None) -> dict[str, Any]:
    return {"tags": None if tags is None else list(tags)}
