"""Which variants can serve a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.routing import candidates
from enginery.errors import ContextLengthExceeded
from enginery.values import TokenEstimate, Variant

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
    if estimate.low + reply > largest:
        with pytest.raises(ContextLengthExceeded):
            candidates(variants, estimate, reply)
        return
    found = candidates(variants, estimate, reply)
    surely = [v for v in variants if estimate.high is not None and estimate.high + reply <= room(v)]
    if surely:
        assert sorted(found, key=room) == list(found)
        assert {v.name for v in found} == {v.name for v in surely}
    else:
        assert [room(v) for v in found] == [largest]  # never one too small while a bigger might fit


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


def test_what_fits_nowhere_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        candidates(model(10, 20), TokenEstimate(15, 40), 6)
    error = caught.value
    assert "at least 21 tokens (15 of prompt, 6 for the reply)" in error.message
    assert "takes 20" in error.message
    assert (error.prompt_tokens, error.context_length, error.param) == (15, 20, "messages")


def test_a_model_without_a_limit_takes_everything() -> None:
    small, endless = model(10, None)
    assert candidates([endless, small], TokenEstimate(10**9, None), 10**9) == (endless,)
