"""What a client knows of its requests: which are unfinished, and which outputs nobody has read yet.

Knows: the rules that hold for every client. A request that was accepted gets exactly one last output: the core's
own, ``abort`` at once when the client aborts it, ``abort`` or ``error`` when the core closes or dies. Does not know:
processes, sockets, threads or event loops; all three clients keep one of these.

An aborted request ends here and not when the core says so. Until the core's own last word on it has passed, its late
outputs are dropped; so an id can be used again at once, and the old request's tokens never reach the new one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from enginery.enginecore.failures import failure_from
from enginery.enginecore.messages import (
    Capabilities,
    CoreState,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
)
from enginery.enginecore.unread import Unread
from enginery.errors import (
    ContextLengthExceeded,
    EngineClosedError,
    EngineryError,
    InvalidRequest,
    UnsupportedOperation,
)

__all__ = ["RequestLedger"]


class RequestLedger:
    """The client's book of requests and outputs."""

    def __init__(self) -> None:
        self.capabilities: Capabilities | None = None
        """What the core said that it can do; None before it did."""
        self.state = CoreState.RUNNING
        """The core's state after its last step that was heard of."""
        self.over: EngineryError | None = None
        """Why nothing works any more: `EngineDeadError` or `EngineClosedError`."""
        self.unread = Unread()
        self._live: set[str] = set()
        self._late: dict[
            str, int
        ] = {}  # last outputs that the core still owes for aborted requests

    @property
    def unfinished(self) -> int:
        """Requests whose last output was not read yet."""
        return len(self._live) + self.unread.ended

    def check(self) -> None:
        """Raise what everything raises when the core is dead or closed."""
        if self.over is not None:
            raise self.over.again()

    def admit(self, request: EngineCoreRequest) -> None:
        """Accept a request. Raises `InvalidRequest` for one that the core would refuse, and what `check` raises."""
        self.check()
        if request.request_id in self._live:
            raise InvalidRequest(
                f"request {request.request_id!r} is not finished yet", param="request_id"
            )
        if self.capabilities is not None:
            _fits(request, self.capabilities)
        self._live.add(request.request_id)

    def abort(self, ids: Sequence[str]) -> list[str]:
        """End these requests; their last outputs are there at once. Returns those that were unfinished."""
        ended = [name for name in dict.fromkeys(ids) if name in self._live]
        for name in ended:
            self._live.discard(name)
            self._late[name] = self._late.get(name, 0) + 1
        self._end(ended, FinishReason.ABORT)
        return ended

    def withdraw(self, request_id: str) -> None:
        """Forget a request that never reached the core."""
        self._live.discard(request_id)

    def put(self, batch: EngineCoreOutputs) -> None:
        """Note what the core says, and keep for the reader what of it he should see."""
        self.state = batch.state
        ended = [o.request_id for o in batch.outputs if o.finish_reason is not None]
        # what follows is for the rare case, so that the usual one costs a list
        if self._late or not self._live.issuperset(ended) or len(set(ended)) < len(ended):
            batch.outputs = [output for output in batch.outputs if self._is_wanted(output)]
            ended = [o.request_id for o in batch.outputs if o.finish_reason is not None]
        else:
            self._live.difference_update(ended)
        if batch.outputs:
            self.unread.add(batch, len(ended))

    def take(self) -> EngineCoreOutputs | None:
        """The next batch. None: not yet; raises what `check` raises when there will be none."""
        batch = self.unread.take()
        if batch is None:
            self.check()
        return batch

    def end(self, why: EngineryError) -> None:
        """The core is gone. Every unfinished request ends: ``abort`` when it was closed, else ``error``."""
        if self.over is not None:
            return
        self.over = why
        self._late.clear()
        ids = sorted(self._live)
        self._live.clear()
        if isinstance(why, EngineClosedError):
            self.state = CoreState.CLOSED
            self._end(ids, FinishReason.ABORT)
        else:
            self.state = CoreState.DEAD
            self._end(ids, FinishReason.ERROR, why)

    def _is_wanted(self, output: EngineCoreOutput) -> bool:
        name, ended = output.request_id, output.finish_reason is not None
        owed = self._late.get(name, 0)
        if owed:
            if ended and owed == 1:
                del self._late[name]
            elif ended:
                self._late[name] = owed - 1
            return False
        wanted = name in self._live
        if ended:
            self._live.discard(name)
        return wanted

    def _end(
        self, ids: Sequence[str], reason: FinishReason, why: EngineryError | None = None
    ) -> None:
        if ids:
            failure = None if why is None else failure_from(why)
            last = [EngineCoreOutput(n, finish_reason=reason, error=failure) for n in ids]
            batch = EngineCoreOutputs(last, timestamp=time.monotonic(), state=self.state)
            self.unread.add(batch, len(last))


def _fits(request: EngineCoreRequest, able: Capabilities) -> None:
    if request.form not in able.accepts:
        takes = ", ".join(sorted(able.accepts))
        raise UnsupportedOperation(
            f"this engine takes prompts as {takes}, not as {request.form}", param="prompt"
        )
    tokens = request.prompt_token_ids
    if tokens is None:
        return
    if len(tokens) >= able.max_model_len:
        raise ContextLengthExceeded(
            f"the prompt has {len(tokens)} tokens; prompt and reply have room for {able.max_model_len}",
            prompt_tokens=len(tokens),
            context_length=able.max_model_len,
            param="prompt_token_ids",
        )
    if able.vocab_size is not None and max(tokens) >= able.vocab_size:
        raise InvalidRequest(
            f"prompt_token_ids: {max(tokens)} is no token; ids are below {able.vocab_size}",
            param="prompt_token_ids",
        )
