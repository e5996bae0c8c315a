"""Tools, as pure functions: arguments that fit their schema, whatever the dice say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from enginery_mock.tools import write_arguments


class Place(BaseModel):
    city: str
    country: str | None


class Trip(BaseModel):
    to: Place
    days: int = Field(ge=1, le=9)
    price: float
    by: list[Place]
    sure: bool
    kind: str = "work"


@given(st.integers(0, 10_000))
def test_arguments_fit_the_schema_that_pydantic_writes(seed: int) -> None:
    chance = random.Random(seed).random
    trip = Trip.model_validate(write_arguments(Trip.model_json_schema(), chance), strict=True)
    assert trip.kind == "work"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["a"]}, "a"),
        ({"const": 7}, 7),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"], "minimum": 3, "maximum": 3}, 3),
        ({"type": "array", "items": {"const": 1}, "minItems": 2}, [1, 1]),
        ({"type": "object"}, {}),
        ({"oneOf": [{"const": "x"}, {"const": "y"}]}, "x"),
    ],
)
def test_a_value_is_made_for_each_word_of_a_schema(schema: Any, value: Any) -> None:
    written = write_arguments({"type": "object", "properties": {"a": schema}}, lambda: 0.5)
    assert written == {"a": value}


def test_a_schema_that_grows_without_end_comes_to_an_end() -> None:
    tree: Any = {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(10)}}
    assert "p9" in write_arguments(tree, lambda: 0.0)
    long: Any = {"type": "array", "minItems": 10**9, "items": {"$ref": "#/properties/long"}}
    assert write_arguments({"properties": {"long": long}}, lambda: 0.0)["long"]


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "enum", "anyOf", "$ref", "minItems", "minimum"]
            ),
            inner
            | st.sampled_from(["object", "array", "integer", "number", "#/properties", "#/x"]),
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(ANYTHING)
def test_no_schema_makes_it_fail(schema: Any) -> None:
    assert isinstance(write_arguments(schema, lambda: 0.3), dict)
