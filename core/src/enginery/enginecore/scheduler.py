"""Continuous batching: who computes how many tokens in the next step.

Knows: waiting and running requests, the token budget, the KV ledger. Does not know: the model, time
(arrival is a number), text, or clients. Pure.

Order is by rank (see `waiting`), which never changes. One step: replies go on first, one token each; then prompts that are partly computed; then new ones. A
prompt that is longer than what is left of the budget is computed in pieces. A request gets blocks for all
its tokens when it is admitted, and one more block each time a reply fills its last. When there is none,
the running request that ranks last loses all of its blocks and waits; it will be computed again, often
from the prefix cache. ``running`` is kept in the order of ranks, so the one that loses is always behind
the one that gains, and has not been scheduled in this step. The first always gets on: a request is never
longer than the whole cache.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from typing import Protocol

from enginery.enginecore.executor import ModelRunnerOutput, SchedulerOutput
from enginery.enginecore.kvcache import KVLedger
from enginery.enginecore.messages import EngineCoreOutput, EngineCoreRequest, FinishReason
from enginery.enginecore.request import Request, RequestStatus
from enginery.enginecore.waiting import WaitingQueue
from enginery.errors import InvalidRequest

__all__ = ["Scheduler", "SimpleScheduler"]


class Scheduler(Protocol):
    """What a `NativeBackend` asks of a scheduler."""

    max_model_len: int
    max_num_seqs: int

    def add_request(
        self, request: EngineCoreRequest, now: float, eos_token_id: int | None = None
    ) -> Request:
        """Queue a request with a prompt of token ids. Raises `InvalidRequest`."""
        ...

    def abort_requests(self, ids: Iterable[str]) -> list[str]:
        """Drop requests; unknown ids are ignored. Returns those that were unfinished."""
        ...

    def finish_request(self, request_id: str) -> Request:
        """End a request for a reason that the scheduler cannot see, such as a stop string."""
        ...

    def has_requests(self) -> bool:
        """True while a request is unfinished."""
        ...

    def schedule(self) -> SchedulerOutput:
        """The next step's order; exactly one `update_from_output` follows, if it is not empty."""
        ...

    def update_from_output(
        self, work: SchedulerOutput, result: ModelRunnerOutput
    ) -> list[EngineCoreOutput]:
        """Take a step's result; returns what each request gained."""
        ...

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """Forget cached prefixes; False while blocks are in use and must stay so."""
        ...

    def stats(self) -> dict[str, float]:
        """Counters and gauges."""
        ...


class SimpleScheduler:
    """First come, first served within a priority, with chunked prefill and preemption.

    Args:
        kv: the ledger; this scheduler alone uses it.
        max_model_len: tokens per request; reduced to what the ledger can hold.
        max_num_seqs: requests that run at once.
        max_num_batched_tokens: the budget of one step, at least ``max_num_seqs``.
        aging_s: seconds of waiting that one step of priority is worth.
    """

    def __init__(
        self,
        kv: KVLedger,
        *,
        max_model_len: int = 4096,
        max_num_seqs: int = 32,
        max_num_batched_tokens: int = 4096,
        aging_s: float = 10.0,
    ) -> None:
        if max_num_seqs < 1:
            raise ValueError(f"max_num_seqs must be at least 1, got {max_num_seqs}")
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(
                "max_num_batched_tokens must be at least max_num_seqs, or replies could starve a prompt:"
                f" {max_num_batched_tokens} < {max_num_seqs}"
            )
        self.kv = kv
        self.max_model_len = min(max_model_len, kv.num_blocks * kv.block_size)
        if self.max_model_len < 2:
            raise ValueError("max_model_len and the cache must hold at least 2 tokens")
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self._requests: dict[str, Request] = {}
        self._running: list[Request] = []
        self._waiting: WaitingQueue[Request] = WaitingQueue(aging_s)
        self._finished: list[str] = []
        self._preempted: list[str] = []
        self._preemptions = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def running(self) -> Sequence[Request]:
        """Those that hold blocks, in the order of their ranks."""
        return self._running

    @property
    def num_waiting(self) -> int:
        """Requests without blocks."""
        return len(self._waiting)

    def add_request(
        self, request: EngineCoreRequest, now: float, eos_token_id: int | None = None
    ) -> Request:
        """Queue a request; see `Scheduler`.

        Args:
            request: its prompt must be token ids.
            now: on the clock of its ``arrival_time``.
            eos_token_id: the end of sequence, if the request brings none.

        Raises:
            InvalidRequest: no token ids, or the id is taken; ``param`` names the field.
            ContextLengthExceeded: the prompt is too long.
        """
        if request.request_id in self._requests:
            raise InvalidRequest(
                f"request_id: {request.request_id!r} is already running", param="request_id"
            )
        if request.prompt_token_ids is None:
            raise InvalidRequest("prompt_token_ids: must be given", param="prompt_token_ids")
        rank = self._waiting.rank(request, now)
        made = Request.of(request, self.max_model_len, rank, eos_token_id)
        self._requests[request.request_id] = made
        self._waiting.push(made)
        return made

    def abort_requests(self, ids: Iterable[str]) -> list[str]:
        """Drop requests; see `Scheduler`."""
        return [each for each in ids if self._end(each, RequestStatus.ABORTED)]

    def finish_request(self, request_id: str) -> Request:
        """End a request; see `Scheduler`. Raises KeyError for an unknown one."""
        request = self._requests[request_id]
        self._end(request_id, RequestStatus.FINISHED)
        return request

    def has_requests(self) -> bool:
        """True while a request is unfinished."""
        return bool(self._requests)

    def schedule(self) -> SchedulerOutput:
        """The next step's order; see the top of this file."""
        scheduled: list[Request] = []
        counts: list[int] = []
        prefills: list[Request] = []
        budget = self.max_num_batched_tokens
        preempted = self._preemptions
        for request in self._running:  # only its end is cut off meanwhile
            length = len(request.token_ids)
            if length > request.room and not self._make_room(request):
                break  # it was the last itself
            if length - request.num_computed_tokens == 1:
                scheduled.append(request)
                counts.append(1)
            else:
                prefills.append(request)
        budget -= len(scheduled)
        for request in prefills:
            count = min(len(request.token_ids) - request.num_computed_tokens, budget)
            if count == 0:
                break
            scheduled.append(request)
            counts.append(count)
            budget -= count
        if self._waiting and preempted == self._preemptions:
            self._admit(scheduled, counts, budget)
        if not scheduled:
            return SchedulerOutput([], [])  # the news for the executor waits for the next step
        work = SchedulerOutput(scheduled, counts, self._preempted, self._finished)
        if self._preempted:
            self._preempted = []
        if self._finished:
            self._finished = []
        return work

    def update_from_output(
        self, work: SchedulerOutput, result: ModelRunnerOutput
    ) -> list[EngineCoreOutput]:
        """Take a step's result; see `Scheduler`. Raises ValueError for a result that does not fit."""
        outputs: list[EngineCoreOutput] = []
        done: list[Request] = []
        sampled = result.sampled_token_ids
        if len(sampled) != len(work.scheduled_requests):
            raise ValueError(
                f"the executor answered for {len(sampled)} of {len(work.scheduled_requests)} requests"
            )
        add = outputs.append
        for request, count, tokens in zip(
            work.scheduled_requests, work.num_scheduled_tokens, sampled, strict=True
        ):
            if request.status is not _RUNNING:
                continue  # aborted while the step was computed
            computed = request.num_computed_tokens = request.num_computed_tokens + count
            if computed >= request.next_hash_at:
                self.kv.note_full(request)
            if not tokens:
                if computed >= len(request.token_ids):
                    raise ValueError(f"the executor gave no token for {request.request_id!r}")
                continue
            if len(tokens) == 1:  # nearly always; the same as Request.append, without its calls
                token = tokens[0]
                ids = request.token_ids
                ids.append(token)
                if token not in request.stop_ids and len(ids) < request.length_limit:
                    add(EngineCoreOutput(request.request_id, tokens))
                    continue
                ids.pop()
            kept = request.append(tokens)
            output = EngineCoreOutput(request.request_id, kept)
            add(output)
            self._generation_tokens += len(kept) - 1
            if request.finish_reason is not None:
                _conclude(output, request)
                done.append(request)
        for request in done:
            self._end(request.request_id, RequestStatus.FINISHED)
        self._generation_tokens += len(outputs)
        if result.logprobs is not None:
            _attach_logprobs(outputs, work, result.logprobs)
        return outputs

    def preempt_all(self) -> None:
        """Take all blocks from all running requests; they wait, and lose nothing that was produced."""
        while self._running:
            self._preempt(self._running.pop())

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        """Forget cached prefixes; see `Scheduler`."""
        if reset_running_requests:
            self.preempt_all()
        return self.kv.reset()

    def stats(self) -> dict[str, float]:
        """Gauges: running, waiting, kv_blocks_*; the rest are counters since the start."""
        return {
            "running": len(self._running),
            "waiting": self.num_waiting,
            "kv_blocks_used": self.kv.num_used,
            "kv_blocks_total": self.kv.num_blocks,
            "kv_blocks_cached": self.kv.num_cached,
            "prefix_cache_lookups": self.kv.lookups,
            "prefix_cache_hits": self.kv.hits,
            "preemptions": self._preemptions,
            "prompt_tokens": self._prompt_tokens,
            "generation_tokens": self._generation_tokens,
        }

    # -- inside --------------------------------------------------------------------------------

    def _admit(self, scheduled: list[Request], counts: list[int], budget: int) -> None:
        while budget > 0 and len(self._running) < self.max_num_seqs:
            request = self._waiting.head()
            if request is None or not self.kv.admit(request):
                return  # nobody overtakes the head
            self._waiting.pop()
            if request.status is RequestStatus.WAITING:
                request.num_cached_tokens = request.num_computed_tokens
                self._prompt_tokens += request.num_prompt_tokens
            request.status = RequestStatus.RUNNING
            insort(self._running, request, key=_rank)
            count = min(len(request.token_ids) - request.num_computed_tokens, budget)
            scheduled.append(request)
            counts.append(count)
            budget -= count

    def _make_room(self, request: Request) -> bool:
        """Find blocks for a running request; False if it lost its own because it is the last."""
        while not self.kv.grow(request):
            last = self._running.pop()
            self._preempt(last)
            if last is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.kv.free(request)
        request.status = RequestStatus.PREEMPTED
        self._preempted.append(request.request_id)
        self._preemptions += 1
        self._waiting.push(request)

    def _end(self, request_id: str, status: RequestStatus) -> bool:
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        was_running = request.status is RequestStatus.RUNNING
        request.status = status
        if was_running:
            self.kv.free(request)
            self._running.remove(request)
        else:
            self._waiting.drop_finished()
        self._finished.append(request_id)
        return True


_RUNNING = RequestStatus.RUNNING


def _rank(request: Request) -> tuple[float, int]:
    return request.rank


def _conclude(output: EngineCoreOutput, request: Request) -> None:
    output.finish_reason = request.finish_reason
    last = request.token_ids[-1]
    if request.finish_reason is FinishReason.STOP and last != request.eos_token_id:
        output.stop_reason = last
    output.num_prompt_tokens = request.num_prompt_tokens
    output.num_output_tokens = request.num_output_tokens
    output.num_cached_tokens = request.num_cached_tokens


def _attach_logprobs(
    outputs: list[EngineCoreOutput], work: SchedulerOutput, logprobs: list[list[float]]
) -> None:
    known = dict(zip((r.request_id for r in work.scheduled_requests), logprobs, strict=True))
    for output in outputs:
        output.logprobs = known[output.request_id][: len(output.new_token_ids)]
