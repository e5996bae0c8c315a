"""`EngineCore`: the one owner of a backend, and the loop's turn.

Knows: in which order requests, the backend, its outputs and calls are dealt with. Does not know: the states
(`controls`), the unfinished requests (`accepted`), sockets, processes or clients; whoever drives it calls
`step`. One thread, no locks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from enginery.enginecore.accepted import AcceptedRequests
from enginery.enginecore.backend import Backend, Capabilities
from enginery.enginecore.calls import CALLS, checked_arguments
from enginery.enginecore.controls import CoreControls, Later, Reply
from enginery.enginecore.failures import failure_from
from enginery.enginecore.messages import (
    CoreState,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from enginery.errors import (
    EngineDeadError,
    EngineError,
    EngineryError,
    InvalidRequest,
    UnsupportedOperation,
)

__all__ = ["EngineCore"]

_STATS_EVERY_S = 1.0
_OWN_CALLS = frozenset(("abort_all", "get_stats"))


class EngineCore:
    """Drives one backend. Made where the backend is made, and used in that thread alone.

    Args:
        backend: owned from now on; `shutdown` shuts it down.
        log_stats: `EngineCoreOutputs.stats` is filled every second.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        log_stats: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.capabilities: Capabilities = backend.capabilities
        self.controls = CoreControls(backend, self.abort_all, self._hand_over_held)
        """Pause, sleep and the like, as methods; `utility` has them by name."""
        self._clock = clock
        self._requests = AcceptedRequests()
        self._seq = 0
        self._steps = 0
        self._log_stats = log_stats
        self._stats_at = clock() + _STATS_EVERY_S

    @property
    def state(self) -> CoreState:
        """Where it is in its life."""
        return self.controls.state

    @property
    def sleep_level(self) -> int | None:
        """0, 1 or 2 while SLEEPING, else None."""
        return self.controls.sleep_level

    @property
    def failure(self) -> EngineDeadError | None:
        """Why it is DEAD."""
        return self.controls.failure

    # -- requests ------------------------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> None:
        """Accept a request: one terminal output will follow. While paused or asleep it is queued.

        Raises:
            InvalidRequest: the id is taken, or the backend cannot run it; ``param`` names the field.
            UnsupportedOperation: the backend does not take this form of prompt.
            EngineClosedError: draining, or closed.
            EngineDeadError: the backend has failed.
        """
        self._requests.check_new(request.request_id)
        self.controls.check_open()
        if request.form not in self.capabilities.accepts:
            forms = ", ".join(sorted(self.capabilities.accepts))
            raise UnsupportedOperation(
                f"this backend takes prompts as {forms}, not as {request.form}", param="prompt"
            )
        if not request.arrival_time:
            request.arrival_time = self._clock()
        if self.controls.is_paused():
            self._requests.hold(request)
        else:
            self._hand_over(request)
            self._requests.add(request.request_id)

    def submit(self, request: EngineCoreRequest) -> None:
        """`add_request` for a client that cannot be told at once: a refusal is the request's output.

        While draining that is ``abort``, else ``error``.

        Raises:
            InvalidRequest: the id is taken; a terminal output would end the wrong request.
        """
        self._requests.check_new(request.request_id)
        if self.state is CoreState.DRAINING:
            self._requests.end(request.request_id, FinishReason.ABORT)
            return
        try:
            self.add_request(request)
        except EngineryError as error:
            self._requests.end(request.request_id, FinishReason.ERROR, failure_from(error))

    def abort_requests(self, ids: Iterable[str]) -> list[str]:
        """End requests now; unknown ids are ignored. Their outputs come with the next `step`.

        Returns those that were unfinished. Never raises: if the backend fails at it, the core is DEAD.
        """
        return self._abort(ids)

    def abort_all(self) -> list[str]:
        """`abort_requests` of all."""
        return self._abort(None)

    # -- the loop ------------------------------------------------------------------------------

    def step(self, timeout: float = 0.0) -> EngineCoreOutputs:
        """Let the backend go on, and return what there is; empty if nothing is.

        Waits at most ``timeout`` seconds, and only for a backend that works elsewhere. If the backend
        raises, all requests get an ``error`` output, the state is DEAD, and the next call raises.

        Raises:
            EngineDeadError: all outputs are delivered, and the backend has failed.
            EngineClosedError: all outputs are delivered, and the core is shut down.
        """
        requests, controls = self._requests, self.controls
        outputs = requests.take_own()
        if controls.state >= CoreState.CLOSED:
            if not outputs:
                raise controls.end()
        elif controls.is_busy():
            try:
                new = self.backend.step(0.0 if outputs else timeout)
            except Exception as error:  # noqa: BLE001  # the core dies of it, and tells why
                self._die(error)
                outputs += requests.take_own()
            else:
                self._steps += 1
                requests.filter(new, outputs)
        if controls.waiting and not controls.is_busy():
            controls.answer_waiting()
        return self._batch(outputs)

    def has_work(self) -> bool:
        """True while outputs or answers will come without anybody's doing: keep calling `step`."""
        if self._requests.has_outputs:
            return True
        controls = self.controls
        return controls.state < CoreState.CLOSED and (bool(controls.waiting) or controls.is_busy())

    def is_ready(self) -> bool:
        """True if `step` now does something: do not wait for `wake_fd` or for a client first."""
        if self._requests.has_outputs:
            return True
        controls = self.controls
        if controls.state >= CoreState.CLOSED:
            return False
        if controls.is_busy():
            return self.backend.wake_fd() is None
        return bool(controls.waiting)

    def wake_fd(self) -> int | None:
        """The backend's descriptor while it may run, to wait on beside the clients; else None."""
        if self.controls.frozen or self.state >= CoreState.CLOSED:
            return None
        return self.backend.wake_fd()

    # -- calls ---------------------------------------------------------------------------------

    def utility(self, method: str, args: Mapping[str, Any], reply: Reply) -> None:
        """A call by name; ``reply`` is called exactly once, now or in a later `step`. Never raises.

        The names are those in `CALLS` (methods of `CoreControls`, ``get_stats`` and ``abort_all``), and
        in ``capabilities.utilities``. Errors are InvalidRequest for wrong arguments,
        UnsupportedOperation for what the backend lacks, EngineBusy for what this state does not allow,
        EngineClosedError while draining, and EngineDeadError.
        """
        try:
            result = self._call(method, args)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller waits for it
            reply(None, error)
            return
        if isinstance(result, Later):
            self.controls.waiting.append((result, reply))
        else:
            reply(result, None)

    def get_stats(self) -> dict[str, float]:
        """Numbers: requests unfinished, held and finished by reason; steps; and the backend's own."""
        stats: dict[str, float] = {
            "unfinished": len(self._requests),
            "held": self._requests.num_held,
            "steps": self._steps,
        }
        for reason, count in self._requests.finished.items():
            stats[f"finished_{reason}"] = count
        if self.state < CoreState.CLOSED:
            with suppress(UnsupportedOperation):
                theirs = self.backend.utility("get_stats", {})
                stats |= {k: v for k, v in theirs.items() if isinstance(v, int | float)}
        return stats

    # -- the end -------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no more requests, and let the accepted ones finish; those that stand still go on.

        What needs a model that is not in memory is aborted: nobody will wake it up any more. Idempotent.
        """
        self.controls.drain()

    def shutdown(self) -> EngineCoreOutputs:
        """Abort what is left, and free the backend. Returns the last outputs. Idempotent."""
        self.abort_all()
        self.controls.close()
        with suppress(Exception):  # nothing is left that it could harm
            self.backend.shutdown()
        return self._batch(self._requests.take_own())

    # -- inside --------------------------------------------------------------------------------

    def _call(self, method: str, args: Mapping[str, Any]) -> Any:
        self.controls.check_open()
        if method in CALLS:
            owner = self if method in _OWN_CALLS else self.controls
            return getattr(owner, method)(**checked_arguments(method, args))
        if method in self.capabilities.utilities:
            return self.backend.utility(method, args)
        names = ", ".join(sorted({*CALLS, *self.capabilities.utilities}))
        raise UnsupportedOperation(f"there is no call {method!r}; there are {names}")

    def _hand_over(self, request: EngineCoreRequest) -> None:
        try:
            self.backend.add_request(request)
        except EngineryError:
            raise
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        except Exception as error:
            raise EngineError(f"the backend cannot take the request: {error!r}") from error

    def _hand_over_held(self) -> None:
        for request in self._requests.take_held():
            try:
                self._hand_over(request)
            except EngineryError as error:
                self._requests.end(request.request_id, FinishReason.ERROR, failure_from(error))

    def _abort(self, ids: Iterable[str] | None) -> list[str]:
        aborted, theirs = self._requests.abort(ids)
        if theirs:
            try:
                self.backend.abort_requests(theirs)
            except Exception as error:  # noqa: BLE001  # a backend that cannot stop is lost
                self._die(error)
        return aborted

    def _die(self, error: Exception) -> None:
        self._requests.fail_all(failure_from(self.controls.die(error)))

    def _batch(self, outputs: list[EngineCoreOutput]) -> EngineCoreOutputs:
        if outputs:
            self._seq += 1
        now = self._clock()
        batch = EngineCoreOutputs(outputs, self._seq, now, self.state)
        if self._log_stats and now >= self._stats_at:
            self._stats_at = now + _STATS_EVERY_S
            with suppress(Exception):  # a backend that cannot count may well compute
                batch.stats = self.get_stats()
        return batch
