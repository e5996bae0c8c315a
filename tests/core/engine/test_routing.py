"""Which variants can serve a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.routing import candidates, reply_budget, undecided
from enginery.errors import ContextLengthExceeded
from enginery.values import EngineRequest, TokenEstimate, Variant

lengths = st.lists(st.one_of(st.none(), st.integers(1, 100)), min_size=1, max_size=5)
bounds = st.tuples(st.integers(0, 120), st.one_of(st.none(), st.integers(0, 60))).map(
    lambda pair: TokenEstimate(pair[0], None if pair[1] is None else pair[0] + pair[1])
)


def model(*context_lengths: int | None) -> list[Variant]:
    return [
        Variant("m", f"v{number}", context_length=length)
        for number, length in enumerate(context_lengths)
    ]


def room(variant: Variant) -> float:
    return float("inf") if variant.context_length is None else variant.context_length


@given(lengths, bounds, st.integers(0, 50))
def test_the_smallest_variant_that_surely_fits_comes_first(sizes, estimate, reply) -> None:
    variants = model(*sizes)
    largest = max(map(room, variants))
    if estimate.low + min(reply, 1) > largest:
        with pytest.raises(ContextLengthExceeded):
            candidates(variants, estimate, reply)
        return
    found = candidates(variants, estimate, reply)
    surely = [v for v in variants if estimate.high is not None and estimate.high + reply <= room(v)]
    if surely:
        assert sorted(found, key=room) == list(found)
        assert {v.name for v in found} == {v.name for v in surely}
    else:
        # never one too small while a bigger might fit; and all of that size, for one may be resident
        assert {v.name for v in found} == {v.name for v in variants if room(v) == largest}


@given(lengths, st.integers(0, 120), st.integers(0, 50), st.integers(0, 60))
def test_narrower_bounds_never_lead_to_a_larger_variant(sizes, low, reply, width) -> None:
    variants = model(*sizes)
    try:
        wide = candidates(variants, TokenEstimate(low, low + width), reply)
    except ContextLengthExceeded:
        return
    narrow = candidates(variants, TokenEstimate(low, low + width // 2), reply)
    assert room(narrow[0]) <= room(wide[0])


def test_the_order_in_the_settings_decides_between_equal_ones() -> None:
    first, second = model(10, 10)
    assert candidates([first, second], TokenEstimate(1, 1), 1) == (first, second)


@given(lengths, bounds, st.integers(0, 50), st.integers(0, 200))
def test_the_exact_count_decides_between_the_undecided_and_the_candidates(
    sizes, estimate, reply, exact
) -> None:
    variants = model(*sizes)
    try:
        found = candidates(variants, estimate, reply)
    except ContextLengthExceeded:
        return
    perhaps = undecided(variants, estimate, reply)
    assert not {v.name for v in perhaps} & {v.name for v in found}
    assert sorted(perhaps, key=room) == list(perhaps)
    if perhaps:
        assert max(map(room, perhaps)) < room(found[0])
    exact = max(exact, estimate.low)
    if estimate.high is not None:
        exact = min(exact, estimate.high)
    try:
        decided = candidates(variants, TokenEstimate(exact, exact), reply)
    except ContextLengthExceeded:
        return
    best = room(decided[0])
    assert best in {room(v) for v in (*perhaps, *found)}, (
        "whoever it is, was asked or chosen before"
    )


@given(lengths, st.integers(0, 120), st.integers(0, 50))
def test_an_exact_estimate_leaves_nothing_undecided(sizes, tokens, reply) -> None:
    assert undecided(model(*sizes), TokenEstimate(tokens, tokens), reply) == ()


@given(lengths, bounds, st.integers(1, 10**9))
def test_a_larger_budget_for_the_reply_refuses_nothing_that_a_smaller_one_did_not(
    sizes, estimate, reply
) -> None:
    """Our default of 512 tokens must not keep a small model from saying hello."""
    variants = model(*sizes)
    try:
        small = candidates(variants, estimate, 1)
    except ContextLengthExceeded:
        with pytest.raises(ContextLengthExceeded):
            candidates(variants, estimate, reply)
        return
    assert room(candidates(variants, estimate, reply)[0]) >= room(small[0])


def test_what_fits_nowhere_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        candidates(model(10, 20), TokenEstimate(25, 40), 6)
    error = caught.value
    assert "the prompt has at least 25 tokens" in error.message
    assert "m takes 20" in error.message
    assert (error.prompt_tokens, error.context_length, error.param) == (25, 20, "messages")


def test_a_prompt_that_leaves_no_room_for_a_reply_is_refused_where_one_is_wanted() -> None:
    with pytest.raises(ContextLengthExceeded, match="the reply needs room too"):
        candidates(model(20), TokenEstimate(20, 20), 6)
    assert len(candidates(model(20), TokenEstimate(20, 20), 0)) == 1, "an embedding has no reply"


def test_a_model_without_a_limit_takes_everything() -> None:
    small, endless = model(10, None)
    assert candidates([endless, small], TokenEstimate(10**9, None), 10**9) == (endless,)


@pytest.mark.parametrize(
    ("path", "body", "budget"),
    [
        ("/v1/chat/completions", {}, 512),
        ("/v1/chat/completions", {"max_tokens": 7}, 7),
        ("/v1/chat/completions", {"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ("/v1/chat/completions", {"max_tokens": 0}, 0),
        ("/v1/chat/completions", {"max_tokens": -1}, 512),
        ("/v1/chat/completions", {"max_tokens": None}, 512),
        ("/v1/chat/completions", {"max_tokens": True}, 512),
        ("/v1/chat/completions", {"max_tokens": "7"}, 512),
        ("/v1/completions", {"prompt": "x", "max_tokens": 3}, 3),
        ("/v1/messages", {"max_tokens": 3}, 3),
        ("/v1/responses", {"input": "x", "max_output_tokens": 3}, 3),
        ("/v1/responses", {"input": "x"}, 512),
        ("/completion", {"prompt": "x", "n_predict": 3}, 3),
        ("/v1/embeddings", {"input": "x"}, 0),
        ("/v1/embeddings/", {"input": "x", "max_tokens": 9}, 0),
        ("/v1/rerank", {"query": "x", "documents": []}, 0),
        ("/v1/messages/count_tokens", {"max_tokens": 3}, 0),
    ],
)
def test_the_replys_budget_is_what_the_request_allows(path, body, budget) -> None:
    assert reply_budget(EngineRequest(path, body), 512) == budget
