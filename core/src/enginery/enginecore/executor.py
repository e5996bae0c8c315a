"""The `Executor`: what computes one step of a batch, for engines that do not schedule themselves.

Knows: the order for one step, its result, and the calls that an executor may have. Does not know: why
these requests and not others, or what becomes of the tokens. It is for hand-written decoders,
transformers and the mock; llama.cpp and vLLM schedule by themselves and are backends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from enginery.enginecore.request import Request
from enginery.errors import UnsupportedOperation

__all__ = ["Executor", "ModelRunnerOutput", "SchedulerOutput"]


class SchedulerOutput(msgspec.Struct, eq=False):
    """One step's order. The requests are the scheduler's own; an executor reads, and keeps none.

    Args:
        scheduled_requests: those that take part.
        num_scheduled_tokens: for each of them, how many tokens to compute, from
            ``num_computed_tokens`` on: 1 is a decode, more a piece of a prompt.
        preempted: ids of those that lost their blocks since the last step; they will be computed anew.
        finished: ids of those that ended or were aborted since the last step. Forget them first: an id
            may be used again, and be among the scheduled ones.
    """

    scheduled_requests: list[Request]
    num_scheduled_tokens: list[int]
    preempted: list[str] = []
    finished: list[str] = []

    @property
    def total_num_scheduled_tokens(self) -> int:
        """Tokens to compute in all."""
        return sum(self.num_scheduled_tokens)

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens of prompts, and of what must be computed again."""
        return self.total_num_scheduled_tokens - self.num_decode_tokens

    @property
    def num_decode_tokens(self) -> int:
        """Tokens that continue a reply."""
        return sum(
            1
            for request, count in zip(
                self.scheduled_requests, self.num_scheduled_tokens, strict=True
            )
            if count == 1 and request.num_computed_tokens >= request.num_prompt_tokens
        )

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to compute."""
        return not self.scheduled_requests


class ModelRunnerOutput(msgspec.Struct, eq=False, gc=False):
    """One step's result.

    Args:
        sampled_token_ids: for each of ``scheduled_requests`` the new tokens: none while its prompt is
            unfinished (``num_computed_tokens`` plus scheduled below ``num_tokens``), else one or more.
            The lists are kept; make new ones each step.
        logprobs: for each request one number per new token; None, not known.
    """

    sampled_token_ids: list[list[int]]
    logprobs: list[list[float]] | None = None


class Executor(ABC):
    """One loaded model that is told what to compute. All calls come from one thread."""

    sleep_levels: ClassVar[tuple[int, ...]] = ()
    """Levels of `sleep` that it has, of 1 and 2."""

    @abstractmethod
    def execute_model(self, work: SchedulerOutput) -> ModelRunnerOutput:
        """Compute one step. Whatever it raises ends the core."""

    def sleep(self, level: int) -> None:
        """Free memory: 1 keeps the weights in RAM, 2 drops them. Nothing runs until `wake_up`."""
        raise UnsupportedOperation(f"{type(self).__name__} cannot sleep at level {level}")

    def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Load what ``tags`` name (None: all); True when nothing is missing any more."""
        raise UnsupportedOperation(f"{type(self).__name__} cannot wake up {tags or 'at all'}")

    def execute_dummy_batch(self) -> None:
        """Compute one step of one made-up sequence: warm-up, and a deep health check.

        Default: a step without any request, which a model that computes should replace.
        """
        self.execute_model(SchedulerOutput([], []))

    def check_health(self) -> None:  # noqa: B027  # optional: most have nothing to look at
        """Raise if it cannot go on. Default: it can."""

    def shutdown(self) -> None:  # noqa: B027  # optional: Python frees what is dropped
        """Free everything. Idempotent. Default: nothing to free."""
