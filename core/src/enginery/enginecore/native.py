"""`NativeBackend`: our own continuous batching over an `Executor`.

Knows: the order of one step (schedule, compute, apply, turn into text), and the calls by name. Does not
know: how requests are chosen (`scheduler`), computed (`executor`) or spoken to (`loop`). One thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from enginery.enginecore.backend import Capabilities, PromptForm, Tokenizer
from enginery.enginecore.detokenizer import Detokenizer
from enginery.enginecore.executor import Executor
from enginery.enginecore.messages import EngineCoreOutput, EngineCoreRequest, FinishReason
from enginery.enginecore.profiling import StepProfiler
from enginery.enginecore.request import Request
from enginery.enginecore.scheduler import SimpleScheduler
from enginery.enginecore.tokenizing import TOKEN_CALLS, token_call
from enginery.errors import InvalidRequest, UnsupportedOperation

__all__ = ["NativeBackend"]


class NativeBackend:
    """A `Backend` of a scheduler and an executor.

    Args:
        scheduler: holds the requests.
        executor: computes the steps.
        tokenizer: with one, prompts may be text or chats, outputs have text, and stop strings work.
        eos_token_id: the end of sequence of requests that bring none.
        vocab_size: token ids of prompts must be below it; None, not checked.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        scheduler: SimpleScheduler,
        executor: Executor,
        *,
        tokenizer: Tokenizer | None = None,
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self._tokenizer = tokenizer
        self._eos_token_id = eos_token_id
        self._clock = clock
        self._texts: dict[str, Detokenizer] = {}
        self._profiler = StepProfiler()
        self._asleep = False
        self._closed = False
        forms: frozenset[PromptForm] = frozenset({"tokens"})
        if tokenizer is not None:
            forms = frozenset({"tokens", "text", "messages"})
        self._capabilities = Capabilities(
            max_model_len=scheduler.max_model_len,
            max_num_seqs=scheduler.max_num_seqs,
            accepts=forms,
            sleep_levels=executor.sleep_levels,
            gives_tokens=True,
            gives_text=tokenizer is not None,
            prefix_cache=True,
            profiler=True,
            dummy_batch=True,
            utilities=() if tokenizer is None else TOKEN_CALLS,
            vocab_size=vocab_size,
        )

    @property
    def capabilities(self) -> Capabilities:
        """``max_model_len`` is what fits in the KV cache, if that is less than was asked for."""
        return self._capabilities

    def add_request(self, request: EngineCoreRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: text without a tokenizer, a token outside the vocabulary, or a field.
            ContextLengthExceeded: the prompt is too long.
        """
        tokenizer = self._tokenizer
        params = request.sampling_params
        if tokenizer is None and params.stop:
            raise InvalidRequest("stop: this backend gives no text to look into", param="stop")
        if request.prompt_token_ids is None:
            request = self._encoded(request)
        elif self._capabilities.vocab_size is not None:
            worst = max(request.prompt_token_ids)
            if worst >= self._capabilities.vocab_size:
                raise InvalidRequest(
                    f"prompt_token_ids: {worst} is not in the vocabulary of"
                    f" {self._capabilities.vocab_size}",
                    param="prompt_token_ids",
                )
        made = self.scheduler.add_request(request, self._clock(), self._eos_token_id)
        if tokenizer is not None:
            self._texts[request.request_id] = _detokenizer(tokenizer, made)

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """Drop requests; see `Backend`."""
        for request_id in ids:
            self._texts.pop(request_id, None)
        return self.scheduler.abort_requests(ids)

    def step(self, timeout: float = 0.0) -> list[EngineCoreOutput]:  # noqa: ARG002  # it works, never waits
        """Compute one step. Whatever the executor raises comes out: there is no going on after it."""
        work = self.scheduler.schedule()
        if not work.scheduled_requests:
            return []
        outputs = self.scheduler.update_from_output(work, self.executor.execute_model(work))
        if self._texts:
            self._add_text(outputs)
        if self._profiler.active:
            self._profiler.step()
        return outputs

    def has_work(self) -> bool:
        """True while a request is unfinished."""
        return self.scheduler.has_requests()

    def wake_fd(self) -> int | None:
        """None: `step` does the work itself."""
        return None

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """The calls that `Backend.utility` lists; with a tokenizer, `token_call`'s too."""
        if self._tokenizer is not None and method in TOKEN_CALLS:
            return token_call(self._tokenizer, method, args)
        if method not in _CALLS:
            raise UnsupportedOperation(f"{type(self).__name__} has no {method!r}")
        return getattr(self, method)(**args)

    def shutdown(self) -> None:
        """Write an active profile, and let the executor free the model."""
        if self._closed:
            return
        self._closed = True
        if self._profiler.active:
            self._profiler.stop()
        self.executor.shutdown()

    def sleep(self, *, level: int) -> None:
        """Free memory. Running requests lose their blocks, but nothing that they have produced."""
        if level not in self.executor.sleep_levels:
            raise UnsupportedOperation(
                f"{type(self.executor).__name__} sleeps at levels {self.executor.sleep_levels}, not {level}"
            )
        self.scheduler.reset_prefix_cache(reset_running_requests=True)
        self.executor.sleep(level)
        self._asleep = True

    def wake_up(self, *, tags: Sequence[str] | None = None) -> bool:
        """Load what was freed; True when all of it is there."""
        if self._asleep:
            self._asleep = not self.executor.wake_up(tags)
        return not self._asleep

    def reset_prefix_cache(
        self,
        *,
        reset_running_requests: bool = False,
        reset_connector: bool = False,  # noqa: ARG002  # no outer store of KV blocks: done at once, as in vLLM
    ) -> bool:
        """Forget cached prefixes; False while requests run, unless they may be computed anew."""
        return self.scheduler.reset_prefix_cache(reset_running_requests=reset_running_requests)

    def profile(
        self,
        *,
        is_start: bool = True,
        prefix: str | None = None,
        max_iterations: int | None = None,
    ) -> str:
        """Start or stop a profile of the steps; returns the file that has it, or will have it."""
        if is_start:
            return self._profiler.start(prefix, max_iterations)
        return self._profiler.stop()

    def execute_dummy_batch(self) -> None:
        """One step of one made-up sequence."""
        self.executor.execute_dummy_batch()

    def get_stats(self) -> dict[str, float]:
        """The scheduler's counters and gauges."""
        return self.scheduler.stats()

    def check_health(self) -> None:
        """Raise if the executor cannot go on."""
        self.executor.check_health()

    # -- inside --------------------------------------------------------------------------------

    def _encoded(self, request: EngineCoreRequest) -> EngineCoreRequest:
        if self._tokenizer is None:
            raise InvalidRequest(f"{request.form}: only token ids are understood", param="prompt")
        text = request.prompt
        if text is None:
            text = self._tokenizer.render_chat(request.messages or [])
        ids = list(self._tokenizer.encode(text))
        if not ids:
            raise InvalidRequest("prompt: has no tokens", param="prompt")
        return EngineCoreRequest(
            request.request_id,
            ids,
            sampling_params=request.sampling_params,
            arrival_time=request.arrival_time,
            priority=request.priority,
            eos_token_id=request.eos_token_id,
            cache_salt=request.cache_salt,
            trace_headers=request.trace_headers,
        )

    def _add_text(self, outputs: list[EngineCoreOutput]) -> None:
        for output in outputs:
            text = self._texts[output.request_id]
            output.text, stop = text.feed(output.new_token_ids)
            if stop is None and output.finish_reason is not None:
                rest, stop = text.finish()
                output.text += rest
            if stop is not None:
                self._stopped(output, stop)
            if output.finish_reason is not None:
                del self._texts[output.request_id]

    def _stopped(self, output: EngineCoreOutput, stop: str) -> None:
        if output.finish_reason is None:
            request = self.scheduler.finish_request(output.request_id)
            output.num_prompt_tokens = request.num_prompt_tokens
            output.num_output_tokens = request.num_output_tokens
            output.num_cached_tokens = request.num_cached_tokens
        output.finish_reason = FinishReason.STOP
        output.stop_reason = stop


_CALLS = frozenset(
    (
        "sleep",
        "wake_up",
        "reset_prefix_cache",
        "profile",
        "execute_dummy_batch",
        "get_stats",
        "check_health",
    )
)


def _detokenizer(tokenizer: Tokenizer, request: Request) -> Detokenizer:
    params = request.sampling_params
    return Detokenizer(
        tokenizer,
        stop=params.stop,
        include_stop=params.include_stop_str_in_output,
        skip_special_tokens=params.skip_special_tokens,
        spaces_between_special_tokens=params.spaces_between_special_tokens,
        min_tokens=params.min_tokens,
        prompt_token_ids=request.token_ids,
    )
