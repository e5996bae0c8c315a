"""Which requests are accepted and unfinished: the promise that each ends exactly once.

Knows: ids, the requests that are held back, and outputs that the core itself makes. Does not know: the
backend, or states. Pure. A request is in exactly one place: not here, held, or with the backend. It
leaves with its terminal output, and outputs of requests that have left are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from enginery.enginecore.failures import Failure
from enginery.enginecore.messages import EngineCoreOutput, EngineCoreRequest, FinishReason
from enginery.errors import InvalidRequest

__all__ = ["AcceptedRequests"]


class AcceptedRequests:
    """The unfinished requests of one core."""

    def __init__(self) -> None:
        self.finished = dict.fromkeys(FinishReason, 0)
        """How many have ended, by reason."""
        self._live: set[str] = set()
        self._held: dict[str, EngineCoreRequest] = {}
        self._own: list[EngineCoreOutput] = []

    def __len__(self) -> int:
        return len(self._live)

    @property
    def num_held(self) -> int:
        """Those that the backend does not know yet."""
        return len(self._held)

    @property
    def has_outputs(self) -> bool:
        """True while `take_own` has something to give."""
        return bool(self._own)

    def check_new(self, request_id: str) -> None:
        """Raises `InvalidRequest`, with the id, if a request of this id is unfinished."""
        if request_id in self._live:
            raise InvalidRequest(
                f"request_id: {request_id!r} is already running", param="request_id"
            )

    def add(self, request_id: str) -> None:
        """The backend has it."""
        self._live.add(request_id)

    def hold(self, request: EngineCoreRequest) -> None:
        """It waits here."""
        self._live.add(request.request_id)
        self._held[request.request_id] = request

    def take_held(self) -> list[EngineCoreRequest]:
        """Those that waited here, in their order; the caller gives them to the backend."""
        held = list(self._held.values())
        self._held.clear()
        return held

    def abort(self, ids: Iterable[str] | None) -> tuple[list[str], list[str]]:
        """End requests, all of them for None: which were unfinished, and which of these the backend has."""
        found = list(dict.fromkeys(self._live if ids is None else ids))
        aborted = [each for each in found if each in self._live]
        theirs = [each for each in aborted if each not in self._held]
        for request_id in aborted:
            self.end(request_id, FinishReason.ABORT)
        return aborted, theirs

    def end(self, request_id: str, reason: FinishReason, failure: Failure | None = None) -> None:
        """End one with an output of our own; also one that was refused, and so was never accepted."""
        self._live.discard(request_id)
        self._held.pop(request_id, None)
        self.finished[reason] += 1
        self._own.append(EngineCoreOutput(request_id, finish_reason=reason, error=failure))

    def fail_all(self, failure: Failure) -> None:
        """End all of them with the same error."""
        for request_id in list(self._live):
            self.end(request_id, FinishReason.ERROR, failure)

    def take_own(self) -> list[EngineCoreOutput]:
        """The outputs that were made here since the last call."""
        own, self._own = self._own, []
        return own

    def filter(self, new: list[EngineCoreOutput], outputs: list[EngineCoreOutput]) -> None:
        """Append the backend's outputs to ``outputs``, without those of requests that have ended."""
        live, take = self._live, outputs.append
        for output in new:
            if output.request_id in live:
                if output.finish_reason is not None:
                    live.discard(output.request_id)
                    self.finished[output.finish_reason] += 1
                take(output)
