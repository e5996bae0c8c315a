"""The frozen values that everybody shares."""

from __future__ import annotations

import dataclasses
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import (
    Command,
    Endpoint,
    EngineReply,
    EngineRequest,
    Health,
    Memory,
    RunningEngine,
    StopPlan,
    TokenEstimate,
    Variant,
    values,
)

FROZEN = [
    Command(["x"]),
    Endpoint("h", 1),
    EngineReply(200, {}, b"{}"),
    Health("ready"),
    Memory({}),
    StopPlan(),
    TokenEstimate(0, None),
    Variant("m"),
]


@pytest.mark.parametrize("value", FROZEN, ids=lambda value: type(value).__name__)
def test_values_are_frozen(value) -> None:
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


@pytest.mark.parametrize(
    "value", [*FROZEN, EngineRequest("/", {})], ids=lambda value: type(value).__name__
)
def test_values_are_slotted_and_equal_when_their_fields_are(value) -> None:
    assert not hasattr(value, "__dict__")
    assert dataclasses.replace(value) == value


def test_every_value_is_public_and_sorted() -> None:
    assert sorted(values.__all__) == values.__all__
    assert all(getattr(values, name, None) is not None for name in values.__all__)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (Endpoint("127.0.0.1", 8081), "http://127.0.0.1:8081"),
        (Endpoint("::1", 8081), "http://[::1]:8081"),
        (Endpoint("gpu-box", 80), "http://gpu-box:80"),
    ],
)
def test_an_endpoint_has_a_url_without_a_trailing_slash(endpoint, url) -> None:
    assert endpoint.base_url == url


def test_a_key_is_never_shown() -> None:
    assert "hunter2" not in repr(Endpoint("h", 1, api_key="hunter2"))


@given(st.lists(st.tuples(st.integers(1, 31), st.floats(0, 100)), max_size=4), st.floats(0, 200))
def test_a_capped_stop_plan_has_the_same_signals_and_waits_no_longer(signals, total) -> None:
    plan = StopPlan(tuple(signals), kill_after=3.0)
    capped = plan.capped(total)
    assert [number for number, _ in capped.signals] == [number for number, _ in signals]
    assert all(
        0 <= cut <= wait for (_, cut), (_, wait) in zip(capped.signals, signals, strict=True)
    )
    expected = min(total, sum(wait for _, wait in signals))
    assert sum(wait for _, wait in capped.signals) == pytest.approx(expected)
    assert capped.kill_after == 3.0


def test_the_default_stop_plan_is_the_documented_one() -> None:
    assert StopPlan() == StopPlan(((signal.SIGTERM, 10.0),), kill_after=2.0)


def test_a_variant_is_called_by_model_and_name() -> None:
    assert Variant("qwen3").id == "qwen3/default"
    assert Variant("qwen3", "long").id == "qwen3/long"


@given(st.integers(-3, 10), st.one_of(st.none(), st.integers(-3, 10)))
def test_a_token_estimate_is_two_bounds_or_nothing(low, high) -> None:
    if low >= 0 and (high is None or high >= low):
        assert TokenEstimate(low, high).low == low
    else:
        with pytest.raises(ValueError, match="0 <= low <= high"):
            TokenEstimate(low, high)


def test_a_reply_decodes_its_body_or_says_that_it_is_no_json() -> None:
    assert EngineReply(200, {}, b'{"a": [1]}').json() == {"a": [1]}
    with pytest.raises(ValueError, match="Expecting value"):
        EngineReply(200, {}, b"<html>").json()


async def test_a_running_engine_is_asked_through_its_transport() -> None:
    asked = []

    async def transport(*request):
        asked.append(request)
        return EngineReply(200, {}, b"")

    engine = RunningEngine(Variant("m"), Endpoint("h", 1), None, transport)
    await engine.get("/health")
    await engine.post("/tokenize", {"content": "x"}, timeout=2.0)
    assert asked == [
        ("GET", "/health", None, None),
        ("POST", "/tokenize", {"content": "x"}, 2.0),
    ]
