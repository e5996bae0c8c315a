"""Sampling parameters and outputs, with objects that look like vLLM's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import EngineError, InvalidRequest
from enginery.enginecore import EngineCoreRequest, FinishReason, SamplingParams
from enginery.enginecore.failures import failure_to_error
from enginery_vllm.converting import check_request, output_of, sampling_arguments, wall_clock


def said(ids=(7,), text="x", *, cached: int | None = 0, **completion: Any) -> SimpleNamespace:
    given = {"finish_reason": None, "stop_reason": None, "logprobs": None, **completion}
    return SimpleNamespace(
        request_id="a",
        prompt_token_ids=[1, 2, 3],
        num_cached_tokens=cached,
        outputs=[SimpleNamespace(token_ids=list(ids), text=text, **given)],
    )


def test_every_parameter_of_ours_has_its_place() -> None:
    assert set(sampling_arguments(SamplingParams())) == set(SamplingParams.__struct_fields__)


def test_parameters_keep_their_values() -> None:
    params = SamplingParams(
        max_tokens=None, top_k=5, seed=-7, stop=("a", "b"), stop_token_ids=(4,), logprobs=2
    )
    found = sampling_arguments(params)
    assert (found["max_tokens"], found["top_k"], found["seed"]) == (None, 5, -7)
    assert (found["stop"], found["stop_token_ids"], found["logprobs"]) == (["a", "b"], [4], 2)


@given(st.none() | st.integers(-(2**63), 2**63 - 1))
def test_only_no_seed_becomes_none(seed) -> None:
    """To vLLM -1 is no seed."""
    found = sampling_arguments(SamplingParams(seed=seed))["seed"]
    assert (found is None) == (seed is None)
    assert found != -1
    if seed not in {None, -1}:
        assert found == seed


@pytest.mark.parametrize("wanted", [None, 2])
def test_the_models_own_end_of_sequence_is_taken(wanted) -> None:
    check_request(EngineCoreRequest("a", prompt="x", eos_token_id=wanted), 2)


def test_another_end_of_sequence_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"eos_token_id: .* 2, not at 3") as caught:
        check_request(EngineCoreRequest("a", prompt="x", eos_token_id=3), 2)
    assert caught.value.param == "eos_token_id"


def test_arrival_is_told_in_wall_clock() -> None:
    assert wall_clock(95.0, 100.0, now=1000.0) == 995.0
    assert wall_clock(101.0, 100.0, now=1000.0) == 1000.0  # never in the future


def test_a_piece_has_its_text_and_ids_and_no_counts() -> None:
    output = output_of(said([7, 8], "hi"), 3)
    assert (output.request_id, output.new_token_ids, output.text) == ("a", [7, 8], "hi")
    assert output.finish_reason is None
    assert (output.num_prompt_tokens, output.num_output_tokens) == (0, 0)


def test_the_last_piece_counts_all_tokens() -> None:
    output = output_of(said([9], finish_reason="length", cached=2), 4)
    assert output.finish_reason is FinishReason.LENGTH
    counts = output.num_prompt_tokens, output.num_output_tokens, output.num_cached_tokens
    assert counts == (3, 5, 2)


def test_cached_tokens_that_are_not_known_are_none() -> None:
    assert output_of(said(finish_reason="stop", cached=None), 0).num_cached_tokens == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("abort", FinishReason.ABORT),
        ("repetition", FinishReason.STOP),
        ("a word of a later vLLM", FinishReason.STOP),
    ],
)
def test_each_end_has_its_reason(word, reason) -> None:
    assert output_of(said(finish_reason=word), 0).finish_reason is reason


@pytest.mark.parametrize("reason", ["###", 17, None])
def test_what_stopped_it_is_told(reason) -> None:
    assert output_of(said(finish_reason="stop", stop_reason=reason), 0).stop_reason == reason


def test_a_request_that_vllm_gave_up_is_an_error_of_that_request() -> None:
    output = output_of(said([], "", finish_reason="error"), 2)
    assert output.finish_reason is FinishReason.ERROR
    error = failure_to_error(output.error)
    assert isinstance(error, EngineError)
    assert "could not go on" in str(error)


def test_each_token_has_its_own_log_probability() -> None:
    likely = [
        {7: SimpleNamespace(logprob=-2.0), 1: SimpleNamespace(logprob=-0.5)},
        {8: SimpleNamespace(logprob=-1)},
    ]
    assert output_of(said([7, 8], logprobs=likely), 0).logprobs == [-2.0, -1.0]
    assert output_of(said([7, 8]), 0).logprobs is None
