from __future__ import annotations

import msgspec
import pytest

from enginery.enginecore import SamplingParams
from enginery.errors import InvalidRequest

WRONG = [
    ("max_tokens", 0),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", "hot"),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("top_k", 0),
    ("top_k", -2),
    ("min_p", -0.1),
    ("min_p", 2),
    ("seed", 2**63),
    ("seed", "x"),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -2.5),
    ("repetition_penalty", 0),
    ("stop", [""]),
    ("stop", [1]),
    ("stop", 7),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", [2**31]),
    ("stop_token_ids", ["a"]),
    ("min_tokens", -1),
    ("min_tokens", 257),
    ("ignore_eos", 1),
    ("include_stop_str_in_output", None),
    ("skip_special_tokens", "yes"),
    ("spaces_between_special_tokens", 0),
    ("logprobs", -1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(name, value) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert isinstance(caught.value, ValueError)


def test_every_field_has_a_wrong_value_in_the_table() -> None:
    assert {name for name, _ in WRONG} == set(SamplingParams.__struct_fields__)


def test_the_edges_of_the_ranges_are_taken() -> None:
    SamplingParams(
        max_tokens=1,
        temperature=0,
        top_p=1,
        top_k=1,
        min_p=0,
        seed=-(2**63),
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=0.01,
        min_tokens=1,
        logprobs=0,
    )
    SamplingParams(max_tokens=None, min_tokens=10_000)


def test_one_stop_string_and_lists_become_tuples() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"], stop_token_ids=[1]).stop == ("a", "b")
    assert SamplingParams(stop=None).stop == ()


def test_the_wire_carries_all_fields_and_refuses_the_same() -> None:
    params = SamplingParams(max_tokens=3, stop=("x",), stop_token_ids=(5,), seed=1)
    data = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(data, type=SamplingParams) == params
    wrong = msgspec.msgpack.encode([0])
    with pytest.raises(msgspec.ValidationError, match="max_tokens") as caught:
        msgspec.msgpack.decode(wrong, type=SamplingParams)
    assert caught.value.__cause__.param == "max_tokens"
