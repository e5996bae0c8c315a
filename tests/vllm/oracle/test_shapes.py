from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from support.oracle.shapes import TELLING, differences, shape_of, stream_shape

KEYS = st.sampled_from(["id", "choices", "usage", *sorted(TELLING)])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50)
@given(JSON)
def test_a_shape_differs_from_itself_in_nothing_also_after_a_file(value) -> None:
    shape = shape_of(value)
    assert list(differences(shape, json.loads(json.dumps(shape)))) == []


@settings(max_examples=50)
@given(JSON, JSON)
def test_two_shapes_differ_in_one_direction_as_often_as_in_the_other(one, other) -> None:
    there, back = (
        list(differences(shape_of(a), shape_of(b))) for a, b in ((one, other), (other, one))
    )
    assert len(there) == len(back)


@settings(max_examples=50)
@given(st.dictionaries(KEYS, JSON, min_size=1, max_size=4), st.data())
def test_a_key_that_is_missing_is_seen_unless_it_was_null(value, data) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    rest = {name: item for name, item in value.items() if name != key}
    told = value[key] is not None
    found = list(differences(shape_of(value), shape_of(rest)))
    assert [line.startswith(f"-{key}:") for line in found] == [True] * told


@settings(max_examples=50)
@given(st.lists(JSON.filter(lambda value: value is not None), min_size=1, max_size=4), st.data())
def test_how_often_a_frame_comes_does_not_matter_but_the_order_does(frames, data) -> None:
    times = [data.draw(st.integers(1, 3)) for _ in frames]
    repeated = [frame for frame, n in zip(frames, times, strict=True) for _ in range(n)]
    assert stream_shape(repeated) == stream_shape(frames)
    end = {"object": "[DONE]"}
    assert list(differences(stream_shape([*frames, end]), stream_shape([end, *frames])))


def test_values_count_only_where_they_say_what_happened() -> None:
    one, other = (shape_of({"id": word, "finish_reason": "stop"}) for word in ("a", "b"))
    assert one == other
    cut = shape_of({"id": "a", "finish_reason": "length"})
    assert list(differences(one, cut)) == ["finish_reason: ='stop', ours ='length'"]


def test_a_number_is_no_boolean_and_no_text() -> None:
    numbers, words, flags = (shape_of({"n": value}) for value in (1.5, "1.5", True))
    assert list(differences(numbers, words)) == ["n: number, ours string"]
    assert list(differences(numbers, flags)) == ["n: number, ours boolean"]
    assert shape_of([1, 2.5, 3]) == ["number"]


def test_what_only_one_side_has_carries_a_sign() -> None:
    theirs, ours = shape_of({"a": {"b": 1}, "n": None}), shape_of({"a": {"c": "x"}})
    assert sorted(differences(theirs, ours)) == ["+a.c: string", "-a.b: number"]
