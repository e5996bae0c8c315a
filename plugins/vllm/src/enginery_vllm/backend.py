"""vLLM in this process: a `Backend` around vLLM's ``LLMEngine``, stepped by an engine core.

Knows: the engine's calls, and what each of ours becomes. Does not know: how the engine is made (`loading`), prompts
(`prompts`) or fields (`converting`); batching, the KV cache and sampling are vLLM's own. One thread does it all, so a step
of the model is what a new request waits for at most, and no other thread takes the interpreter from it.

Priorities are vLLM's: strictly by number, then by arrival, without aging.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from enginery import Capabilities, InvalidRequest, UnsupportedOperation, Variant
from enginery.enginecore import EngineCoreOutput, EngineCoreRequest
from enginery.enginecore.served import variant_of
from enginery.enginecore.tokenizing import TOKEN_CALLS
from enginery_vllm.converting import check_request, output_of, sampling_arguments, wall_clock
from enginery_vllm.loading import load_engine
from enginery_vllm.prompts import Prompts, refusals_translated

__all__ = ["VllmBackend", "create_backend"]


def create_backend(variant: Mapping[str, Any]) -> VllmBackend:
    """`VllmBackend` from the plain fields of a variant: a core's child gets no other."""
    return VllmBackend(variant_of(variant))


class VllmBackend:
    """One model in this process.

    Args:
        variant: of the engine_type ``vllm``; every option counts, but those of vLLM's server.
        engine: an ``LLMEngine`` that was made already, instead; owned from now on.

    Raises:
        EngineStartFailed: vLLM is missing, or did not load the model, with its reason.
    """

    def __init__(self, variant: Variant, engine: Any = None) -> None:
        self._hold_threads: Callable[[], None] = lambda: None
        if engine is None:
            engine, threads = load_engine(variant)
            self._hold_threads = threads.hold
        self._engine = engine
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        self._params_class = SamplingParams
        self._deltas = RequestOutputKind.DELTA
        self._core = self._engine.engine_core.engine_core
        config = self._engine.vllm_config
        renderer = self._engine.renderer
        has_text = renderer.tokenizer is not None
        self._prompts = Prompts(renderer, config.model_config.max_model_len)
        self._eos = renderer.get_eos_token_id() if has_text else None
        self._counts: dict[str, int] = {}
        self._discarded = False
        self._closed = False
        self._profiles = config.profiler_config
        self._capabilities = Capabilities(
            max_model_len=config.model_config.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            accepts=frozenset({"tokens", "text", "messages"} if has_text else {"tokens"}),
            sleep_levels=(1, 2) if config.model_config.enable_sleep_mode else (),
            gives_tokens=True,
            gives_text=has_text,
            prefix_cache=bool(config.cache_config.enable_prefix_caching),
            profiler=self._profiles is not None and self._profiles.profiler is not None,
            dummy_batch=True,
            utilities=TOKEN_CALLS if has_text else (),
            vocab_size=config.model_config.get_vocab_size(),
        )

    @property
    def capabilities(self) -> Capabilities:
        """Text and token ids out; the context that the KV cache has really room for."""
        return self._capabilities

    def add_request(self, request: EngineCoreRequest) -> None:
        """Queue a request; its prompt is read here, which takes a moment for a long text.

        Raises:
            InvalidRequest: what vLLM refuses, in its words.
            ContextLengthExceeded: the prompt leaves no room for a reply.
        """
        check_request(request, self._eos)
        prompt = self._prompts.of(request)
        name = request.request_id
        try:
            with refusals_translated():
                self._engine.add_request(
                    name,
                    prompt,
                    self._params_class(
                        output_kind=self._deltas,
                        detokenize=self._capabilities.gives_text,
                        **sampling_arguments(request.sampling_params),
                    ),
                    arrival_time=wall_clock(request.arrival_time, time.monotonic()),
                    trace_headers=request.trace_headers,
                    priority=-request.priority,  # vLLM's lower goes first
                )
        except BaseException:
            self._engine.abort_request([name])  # it may have got half-way
            raise
        self._counts[name] = 0

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """Drop requests, and with them their blocks."""
        found = [name for name in ids if self._counts.pop(name, None) is not None]
        if found:
            self._engine.abort_request(found)
        return found

    def step(self, timeout: float = 0.0) -> list[EngineCoreOutput]:  # noqa: ARG002  # it works, never waits
        """Compute one step. Whatever vLLM raises comes out: there is no going on after it."""
        self._hold_threads()
        outputs = []
        counts = self._counts
        for said in self._engine.step():
            name = said.request_id
            output = output_of(said, counts[name])
            if output.finish_reason is None:
                counts[name] += len(output.new_token_ids)
            else:
                del counts[name]
            outputs.append(output)
        return outputs

    def has_work(self) -> bool:
        """True while a request is unfinished."""
        return bool(self._engine.has_unfinished_requests())

    def wake_fd(self) -> int | None:
        """None: `step` does the work itself."""
        return None

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """The calls that `Backend.utility` lists, and ``tokenize`` and ``detokenize``."""
        if method in self._capabilities.utilities:
            return self._prompts.call(method, args)
        if method not in _CALLS:
            raise UnsupportedOperation(f"vLLM has no {method!r} in process")
        return getattr(self, method)(**args)

    def shutdown(self) -> None:
        """Free the model, and end the workers of a model on several devices."""
        if self._closed:
            return
        self._closed = True
        self._counts.clear()
        self._engine.engine_core.shutdown()
        self._engine.renderer.shutdown()

    def sleep(self, *, level: int) -> None:
        """Free memory. Requests that stand still lose their blocks, but nothing that they have produced."""
        self._engine.sleep(level, mode="keep")
        self._discarded = level > 1

    def wake_up(self, *, tags: Sequence[str] | None = None) -> bool:
        """Load what was freed, after level 2 from the model's files; True when all of it is there."""
        awake = self._engine.wake_up(None if tags is None else list(tags))
        if self._discarded and (tags is None or "weights" in tags):
            self._engine.collective_rpc("reload_weights")
            self._discarded = False
        return bool(awake)

    def reset_prefix_cache(
        self, *, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget cached prefixes; False while requests use them, unless they may be computed anew."""
        return bool(self._engine.reset_prefix_cache(reset_running_requests, reset_connector))

    def profile(
        self,
        *,
        is_start: bool = True,
        prefix: str | None = None,
        max_iterations: int | None = None,
    ) -> str | None:
        """Start or stop vLLM's profiler; returns the directory where it leaves traces, if it has one."""
        if is_start:
            from vllm.exceptions import ProfilerAlreadyActiveError

            try:
                with refusals_translated("prefix"):
                    self._engine.start_profile(prefix, max_iterations=max_iterations)
            except ProfilerAlreadyActiveError as error:
                raise InvalidRequest("a profile is active", param="is_start") from error
        else:
            self._engine.stop_profile()
        return getattr(self._profiles, "torch_profiler_dir", None) or None

    def execute_dummy_batch(self) -> None:
        """One step of made-up tokens."""
        self._hold_threads()
        self._engine.engine_core.execute_dummy_batch()

    def get_stats(self) -> dict[str, float]:
        """Requests running and waiting, and the share of the KV cache that they use, 0 to 1."""
        scheduler = self._core.scheduler
        running, waiting = scheduler.get_request_counts()
        return {
            "running": running,
            "waiting": waiting,
            "kv_cache_usage": scheduler.get_kv_cache_usage(),
        }

    def check_health(self) -> None:
        """Raise if a worker is gone."""
        self._core.model_executor.check_health()


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
