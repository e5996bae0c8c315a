"""The states of a core, and what can be asked of it besides requests: pause, sleep, wake up and the like.

Knows: the core's state, and what a backend may be asked in it. Does not know: requests (it has them
aborted or handed over by its owner, `EngineCore`), outputs, or who asks.

    RUNNING ──pause──▶ PAUSED ──sleep──▶ SLEEPING       any of the three ──drain──▶ DRAINING
       ▲─────resume───────┘                 │           any ──close──▶ CLOSED
       ▲─────────────wake_up────────────────┘           any ──the backend raises──▶ DEAD

While paused, new requests are held and not given to the backend. Running ones have ended (``abort``), run
to their end (``wait``), or stand still (``keep``: the backend is not stepped).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from enginery.enginecore.backend import Backend, Capabilities
from enginery.enginecore.messages import CoreState, PauseMode
from enginery.errors import (
    EngineBusy,
    EngineClosedError,
    EngineDeadError,
    EngineryError,
    UnsupportedOperation,
)

__all__ = ["CoreControls", "Later", "Reply"]

Reply = Callable[[Any, Exception | None], None]
"""Called once with a call's result and None, or with None and its error. Must not raise."""


@dataclass(frozen=True, slots=True)
class Later:
    """What a call returns whose answer comes when the backend is idle: ``then`` makes it."""

    then: Callable[[], Any]


class CoreControls:
    """The methods are the calls by name; their arguments have been checked (`calls`).

    Args:
        backend: the core's.
        abort_all: ends all requests.
        hand_over_held: gives the backend what was held.
    """

    def __init__(
        self,
        backend: Backend,
        abort_all: Callable[[], object],
        hand_over_held: Callable[[], object],
    ) -> None:
        self.state = CoreState.RUNNING
        self.sleep_level: int | None = None
        """0, 1 or 2 while SLEEPING, else None."""
        self.frozen = False
        """The backend must not be stepped."""
        self.failure: EngineDeadError | None = None
        """Why it is DEAD."""
        self.waiting: list[tuple[Later, Reply]] = []
        """Calls whose answers come when the backend is idle."""
        self.capabilities: Capabilities = backend.capabilities
        self._backend = backend
        self._abort_all = abort_all
        self._hand_over_held = hand_over_held

    def is_busy(self) -> bool:
        """The backend has work, and may do it."""
        return not self.frozen and self._backend.has_work()

    def check_open(self) -> None:
        """Raises `EngineClosedError` or `EngineDeadError` from DRAINING on."""
        if self.state >= CoreState.DRAINING:
            raise self.end()

    def end(self) -> EngineryError:
        """Why nothing more is done."""
        if self.failure is not None:
            return self.failure.again()
        return EngineClosedError("the core is shutting down, or closed")

    def answer_waiting(self) -> None:
        """The backend is idle: do and answer what waited for it."""
        calls, self.waiting = self.waiting, []
        for later, reply in calls:
            try:
                result = later.then()
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller waits for it
                reply(None, error)
            else:
                reply(result, None)

    # -- calls by name -------------------------------------------------------------------------

    def pause(self, mode: PauseMode = "abort", clear_cache: bool = True) -> Later | None:
        """Hold new requests, and end running ones, let them finish, or let them stand still.

        With ``wait`` the answer comes `Later`. ``clear_cache`` forgets cached prefixes then, where the
        backend has any; requests that stand still are computed again, and lose no token.
        """
        clear = clear_cache and self.capabilities.prefix_cache
        return self._pause(mode, self._clear_cache if clear else _nothing)

    def resume(self) -> None:
        """Run again: what stood still goes on, what was held goes to the backend.

        Raises `EngineBusy` while memory is missing.
        """
        if self.sleep_level:
            raise EngineBusy(f"asleep at level {self.sleep_level}: wake it up first")
        self._run()

    def is_paused(self) -> bool:
        """True while new requests are held: PAUSED or SLEEPING."""
        return self.state is CoreState.PAUSED or self.state is CoreState.SLEEPING

    def is_sleeping(self) -> bool:
        """True while new requests are held, as in vLLM: paused at any level, or memory released."""
        return self.is_paused()

    def sleep(self, level: int = 1, mode: PauseMode = "abort") -> Later | None:
        """`pause`, then free memory: level 0 nothing, 1 the cache, 2 the weights too.

        Already asleep at this level or a deeper one, it is done. Raises `UnsupportedOperation` for a
        level that the backend lacks.
        """
        if level and level not in self.capabilities.sleep_levels:
            levels = ", ".join(map(str, (0, *self.capabilities.sleep_levels)))
            raise UnsupportedOperation(
                f"this backend sleeps at level {levels}, not at {level}", param="level"
            )
        if self.sleep_level is not None and self.sleep_level >= level:
            return None
        return self._pause(mode, partial(self._fall_asleep, level))

    def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Load what ``tags`` name, of weights, kv_cache and scheduling; None, everything.

        True if it is fully awake now: scheduling goes on as soon as all memory is there.
        """
        resume = tags is None or "scheduling" in tags
        if self.sleep_level:
            memory = None if tags is None else [tag for tag in tags if tag != "scheduling"]
            if memory == [] or not self._backend.utility("wake_up", {"tags": memory}):
                return False
            resume = True
        if resume and self.is_paused():
            self._run()
        return not self.is_paused()

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget cached prefixes; False while requests use them, unless these may be computed anew."""
        self._needs(self.capabilities.prefix_cache, "prefix cache")
        return bool(
            self._backend.utility(
                "reset_prefix_cache",
                {
                    "reset_running_requests": reset_running_requests,
                    "reset_connector": reset_connector,
                },
            )
        )

    def profile(
        self, is_start: bool = True, prefix: str | None = None, max_iterations: int | None = None
    ) -> Any:
        """Start or stop the backend's profiler; what it answers is its own, such as a path."""
        self._needs(self.capabilities.profiler, "profiler")
        return self._backend.utility(
            "profile", {"is_start": is_start, "prefix": prefix, "max_iterations": max_iterations}
        )

    def execute_dummy_batch(self) -> None:
        """One step of one made-up sequence: warm-up, and a deep check. Raises `EngineBusy` while asleep."""
        self._needs(self.capabilities.dummy_batch, "dummy batch")
        if self.sleep_level:
            raise EngineBusy(f"asleep at level {self.sleep_level}: wake it up first")
        self._backend.utility("execute_dummy_batch", {})

    def check_health(self) -> None:
        """Raises if it cannot go on: the backend's own check, where it has one."""
        with suppress(UnsupportedOperation):
            self._backend.utility("check_health", {})

    # -- the end -------------------------------------------------------------------------------

    def drain(self) -> None:
        """No more requests; accepted ones finish, also those that stood still. Idempotent.

        What needs a model that is not in memory is aborted: nobody will wake it up any more.
        """
        if self.state >= CoreState.DRAINING:
            return
        self._fail_waiting(EngineClosedError("the core is shutting down"))
        if self.sleep_level:
            self._abort_all()
        if self.state < CoreState.DRAINING:  # aborting can be the backend's death
            self.state = CoreState.DRAINING
            self.frozen = False
            self._hand_over_held()

    def close(self) -> None:
        """Nothing more at all; a dead core stays DEAD. Idempotent."""
        self._fail_waiting(EngineClosedError("the core is shutting down"))
        self.state = max(self.state, CoreState.CLOSED)

    def die(self, error: Exception) -> EngineDeadError:
        """The backend raised; returns what all requests are told."""
        self.failure = EngineDeadError(f"the backend failed: {type(error).__name__}: {error}")
        self.failure.__cause__ = error
        self.state = CoreState.DEAD
        self._fail_waiting(self.failure)
        return self.failure

    # -- inside --------------------------------------------------------------------------------

    def _needs(self, has: bool, what: str) -> None:
        if not has:
            raise UnsupportedOperation(f"this backend has no {what}")

    def _pause(self, mode: PauseMode, then: Callable[[], None]) -> Later | None:
        if self.state is CoreState.RUNNING:
            self.state = CoreState.PAUSED
        if mode == "keep":
            self._fail_waiting(EngineBusy("the core was paused with mode keep meanwhile"))
        elif mode == "abort":
            self._abort_all()
            self.check_open()
        if not self.sleep_level:
            self.frozen = mode == "keep"
        if mode == "wait" and self.is_busy():
            return Later(then)
        then()
        return None

    def _fall_asleep(self, level: int) -> None:
        if level:
            self._backend.utility("sleep", {"level": level})
        self.state = CoreState.SLEEPING
        self.sleep_level = level
        self.frozen = True

    def _run(self) -> None:
        self._fail_waiting(EngineBusy("the core was resumed meanwhile"))
        self.state = CoreState.RUNNING
        self.sleep_level = None
        self.frozen = False
        self._hand_over_held()

    def _clear_cache(self) -> None:
        self.reset_prefix_cache(reset_running_requests=True)

    def _fail_waiting(self, error: EngineryError) -> None:
        calls, self.waiting = self.waiting, []
        for _, reply in calls:
            reply(None, error.again())


def _nothing() -> None:
    """After a pause there is nothing to do."""
