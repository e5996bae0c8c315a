"""Requests and outputs, from our words into vLLM's and back.

Knows: which sampling parameter is called what, where the two disagree, and what an output of vLLM's says. Does not know:
the engine, prompts (`prompts`), or vLLM's classes: values go in and come out, so that it is tested without vLLM.
"""

from __future__ import annotations

import time
from typing import Any

from enginery import EngineError, InvalidRequest
from enginery.enginecore import EngineCoreOutput, EngineCoreRequest, FinishReason, SamplingParams
from enginery.enginecore.failures import failure_from

__all__ = ["check_request", "output_of", "sampling_arguments", "wall_clock"]

_SAME = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "logprobs",
)
"""What has the same name, range and meaning in vLLM."""

_NO_SEED = -1
"""To vLLM this is no seed at all; to us it is one like any other."""

_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "abort": FinishReason.ABORT,
    "error": FinishReason.ERROR,
    "repetition": FinishReason.STOP,
}
"""vLLM's words for why it ended. Repetition is only looked for if its own options say so."""


def sampling_arguments(params: SamplingParams) -> dict[str, Any]:
    """The arguments of vLLM's ``SamplingParams``, but for the kind of output that is wanted."""
    arguments: dict[str, Any] = {name: getattr(params, name) for name in _SAME}
    arguments["seed"] = 2**63 - 1 if params.seed == _NO_SEED else params.seed
    arguments["stop"] = list(params.stop)
    arguments["stop_token_ids"] = list(params.stop_token_ids)
    return arguments


def check_request(request: EngineCoreRequest, eos_token_id: int | None) -> None:
    """Refuse what vLLM has nothing for. Raises `InvalidRequest`; ``param`` names it.

    That is one thing only: an end of sequence that is not the model's own.
    """
    wanted = request.eos_token_id
    if wanted is not None and wanted != eos_token_id:
        raise InvalidRequest(
            f"eos_token_id: vLLM ends a reply at the model's own, {eos_token_id}, not at {wanted};"
            " see stop_token_ids",
            param="eos_token_id",
        )


def wall_clock(arrival_time: float, monotonic: float, now: float | None = None) -> float:
    """When a request came, in seconds since 1970, as vLLM orders requests of one priority.

    Args:
        arrival_time: monotonic seconds.
        monotonic: what that clock says now.
        now: seconds since 1970; None, this moment.
    """
    return (time.time() if now is None else now) - max(0.0, monotonic - arrival_time)


def output_of(said: Any, tokens_before: int) -> EngineCoreOutput:
    """One of vLLM's ``RequestOutput``, made with deltas, as ours.

    Args:
        said: has one completion, for we ask for one.
        tokens_before: of the reply, that came with earlier outputs; counts are in the last one alone.
    """
    (completion,) = said.outputs
    ids = list(completion.token_ids)
    output = EngineCoreOutput(said.request_id, ids, completion.text)
    if completion.logprobs is not None:
        # each token's own comes with the likeliest ones, by id
        output.logprobs = [
            float(found[token].logprob)
            for token, found in zip(ids, completion.logprobs, strict=False)
        ]
    if completion.finish_reason is None:
        return output
    output.finish_reason = _REASONS.get(completion.finish_reason, FinishReason.STOP)
    output.stop_reason = completion.stop_reason
    if output.finish_reason is FinishReason.ERROR:
        told = f": {completion.stop_reason}" if completion.stop_reason else ""
        output.stop_reason = None
        output.error = failure_from(EngineError(f"vLLM could not go on with this request{told}"))
    output.num_prompt_tokens = len(said.prompt_token_ids or ())
    output.num_output_tokens = tokens_before + len(ids)
    output.num_cached_tokens = said.num_cached_tokens or 0
    return output
