"""`enginery_vllm.requests`; that the fields are vLLM's own is in ``real``."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import EngineRequest, InvalidRequest
from enginery_vllm.requests import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    KNOWN_FIELDS,
    MESSAGES,
    RESPONSES,
    adapt,
)

MESSAGE = {"messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def adapted(body, path=CHAT):
    before = copy.deepcopy(body)
    found = adapt(EngineRequest(path, body))
    assert body == before  # a transform never changes what came
    return found


@pytest.mark.parametrize("path", sorted(KNOWN_FIELDS))
def test_a_request_that_vllm_knows_keeps_its_bytes(path) -> None:
    body = dict.fromkeys(KNOWN_FIELDS[path], 1)
    assert adapted(body, path) == (None, ())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("given_fields", "expected"),
    [
        ({"n_predict": 5}, {"max_tokens": 5}),
        ({"n_predict": -1}, {}),
        ({"n_predict": -2, "max_tokens": 7}, {"max_tokens": 7}),
        ({"n_predict": 5, "max_tokens": 5}, {"max_tokens": 5}),
        ({"n_predict": 5, "max_tokens": None}, {"max_tokens": 5}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"json_schema": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ({"grammar": 'root ::= "a"'}, {"structured_outputs": {"grammar": 'root ::= "a"'}}),
        ({"grammar": ""}, {}),
        ({"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ({"guided_json": "{}"}, {"structured_outputs": {"json": "{}"}}),
        ({"guided_regex": "[ab]"}, {"structured_outputs": {"regex": "[ab]"}}),
        ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
        ({"guided_grammar": "root"}, {"structured_outputs": {"grammar": "root"}}),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " "},
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}},
        ),
        ({"guided_whitespace_pattern": " "}, {}),
        (
            {"guided_json": SCHEMA, "json_schema": SCHEMA},
            {"structured_outputs": {"json": SCHEMA}},
        ),
        (
            {"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA, "regex": None}},
            {"structured_outputs": {"json": SCHEMA}},
        ),
        (
            {"guided_json": SCHEMA, "response_format": {"type": "text"}},
            {"structured_outputs": {"json": SCHEMA}, "response_format": {"type": "text"}},
        ),
    ],
)
def test_other_names_become_vllms(path, given_fields, expected) -> None:
    assert adapted({**MESSAGE, **given_fields}, path)[0] == {**MESSAGE, **expected}


def test_a_limit_under_openais_newer_name_counts_too() -> None:
    body = {**MESSAGE, "max_completion_tokens": 4}
    assert adapted({**body, "n_predict": 4})[0] == body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n_predict": 5, "max_tokens": 6}, "n_predict"),
        ({"n_predict": 5, "max_completion_tokens": 6}, "n_predict"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"json_schema": SCHEMA, "guided_json": {}, "grammar": "x"}, "json_schema"),
        ({"grammar": "a", "guided_grammar": "b"}, "grammar"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "b"}}, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_one_wish_with_two_values_is_refused(body, param) -> None:
    with pytest.raises(InvalidRequest) as failure:
        adapted({**MESSAGE, **body})
    assert failure.value.param == param


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        (CHAT, {"mirostat": 2, "cache_prompt": True}, ("cache_prompt", "mirostat")),
        (CHAT, {"functions": [{}], "function_call": "auto"}, ("function_call", "functions")),
        (CHAT, {"best_of": 2, "store": None}, ("best_of",)),
        (COMPLETIONS, {"best_of": 2}, ("best_of",)),
        (EMBEDDINGS, {"n_predict": 2}, ("n_predict",)),
        (MESSAGES, {"service_tier": "auto"}, ("service_tier",)),
        (RESPONSES, {"guided_json": {}}, ("guided_json",)),
        ("/detokenize", {"anything": 1}, ()),
        (CHAT, {"n_predict": None}, ()),
    ],
)
def test_what_vllm_ignores_is_told_and_left_where_it_is(path, body, ignored) -> None:
    assert adapted(body, path) == (None, ignored)


NAMES = sorted(
    {"n_predict", "repeat_penalty", "json_schema", "grammar", "guided_json", "guided_regex"}
    | {"mirostat", "max_tokens", "structured_outputs", "response_format", "temperature"}
)


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.none() | st.integers(-2, 3) | st.sampled_from(["", "x", {}, [], {"type": []}]),
    )
)
def test_whatever_comes_is_adapted_or_refused_and_twice_is_once(body) -> None:
    try:
        made, ignored = adapted(body)
    except InvalidRequest:
        return
    again = {**body} if made is None else made
    assert adapted(again) == (None, ignored)
    assert set(ignored) <= {"mirostat"}
