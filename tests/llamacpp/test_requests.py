"""`enginery_llamacpp.validation` and `requests` on what needs no engine: valid requests pass as they are."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import EngineRequest, InvalidRequest, Variant
from enginery_llamacpp.requests import IGNORED_FIELDS, adapt
from enginery_llamacpp.validation import CHAT, COMPLETIONS, MESSAGES, RESPONSES, validate

VARIANT = Variant(model="m", engine_type="llama.cpp", parallel=2)
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
WORDS = ("type", "text", "function", "name", "role", "content", "arguments", "tool_calls", "schema")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "f", "user", "text", "function", "required", "json_schema", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=8,
)
MESSAGES_LIKE = st.lists(
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": JSON}, optional={"tool_calls": JSON}
    ),
    max_size=2,
)
FIELDS = (
    *(
        "messages",
        "prompt",
        "input",
        "max_tokens",
        "n",
        "stop",
        "stream",
        "stream_options",
        "tools",
    ),
    *("tool_choice", "response_format", "logit_bias", "top_logprobs", "text", "user", "functions"),
)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}),
        (CHAT, {"max_tokens": -1}),
        (CHAT, {"max_tokens": 5.0}),
        (CHAT, {"max_completion_tokens": 7, "n": 2, "seed": -1, "temperature": 5}),
        (CHAT, {"stop": None, "n": None, "tools": None, "response_format": None, "user": None}),
        (CHAT, {"stop": "a"}),
        (CHAT, {"stop": ["a", "b", "c", "d", "e"]}),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"tools": [], "tool_choice": "none"}),
        (CHAT, {"tools": [TOOL], "tool_choice": "required"}),
        (CHAT, {"tool_choice": "auto"}),
        (CHAT, {"functions": [], "function_call": "none"}),
        (CHAT, {"logit_bias": {"5": -100, "hello": False}}),
        (CHAT, {"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}),
        (CHAT, {"messages": [USER, {"role": "assistant", "content": None}]}),
        (CHAT, {"messages": [{"role": "tester", "content": [{"type": "text", "text": "x"}]}]}),
        (CHAT, {"ignore_eos": True, "cache_prompt": False, "id_slot": 3, "unknown": {"x": 1}}),
        (COMPLETIONS, {"prompt": [1, 2], "echo": False, "suffix": ""}),
        (MESSAGES, {"stop_sequences": ["a"], "tool_choice": {"type": "auto"}}),
        (RESPONSES, {"input": "x", "text": {"format": {"type": "text"}}}),
        ("/tokenize", {"content": "x", "n": 99}),
    ],
)
def test_what_llama_cpp_honours_passes_byte_for_byte(path, fields) -> None:
    request = EngineRequest(path, {"messages": [USER], **fields})
    validate(request, VARIANT)
    assert adapt(request) == (None, ())


@pytest.mark.parametrize("kind", ["image_url", "input_audio"])
def test_media_are_refused_only_where_the_features_exclude_them(kind) -> None:
    request = EngineRequest(CHAT, {"messages": [{"role": "user", "content": [{"type": kind}]}]})
    validate(request, VARIANT)
    both = frozenset({"chat", "images", "audio"})
    validate(request, Variant(model="m", features=both))
    with pytest.raises(InvalidRequest) as refusal:
        validate(request, Variant(model="m", features=frozenset({"chat"})))
    assert refusal.value.param == "messages[0].content[0]"


def test_an_attached_server_judges_n_itself() -> None:
    request = EngineRequest(CHAT, {"messages": [USER], "n": 9})
    validate(request, Variant(model="m", url="http://127.0.0.1:1"))
    with pytest.raises(InvalidRequest, match="at most 2"):
        validate(request, VARIANT)


@pytest.mark.parametrize(
    ("path", "expected"),
    [(MESSAGES, {"type": "any"}), (RESPONSES, "required")],
)
def test_one_chosen_tool_is_the_only_one_offered(path, expected) -> None:
    tools = [{"name": "f"}, {"name": "g"}]
    body = {"messages": [USER], "tools": tools, "tool_choice": {"type": "tool", "name": "g"}}
    validate(EngineRequest(path, body), VARIANT)
    adapted = adapt(EngineRequest(path, body)).body
    assert adapted == body | {"tools": [{"name": "g"}], "tool_choice": expected}


def test_a_long_line_of_arguments_is_refused_and_does_not_break() -> None:
    arguments = "[" * 100_000
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
    with pytest.raises(InvalidRequest):
        validate(EngineRequest(CHAT, body), VARIANT)


@given(
    path=st.sampled_from([*IGNORED_FIELDS, "/infill"]),
    body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    messages=st.none() | MESSAGES_LIKE,
)
def test_any_body_is_refused_or_adapted_and_never_changed(path, body, messages) -> None:
    if messages is not None:
        body["messages"] = messages
    before = copy.deepcopy(body)
    request = EngineRequest(path, body)
    refusal = refusal_of(request)
    if refusal is None:
        adapted, ignored = adapt(request)
        assert (adapted is None) <= (ignored == ())
        assert not set(ignored) & set(adapted or {})
    else:
        assert refusal.param
        assert refusal.param in refusal.message
    assert repr(body) == repr(before)


def refusal_of(request):
    try:
        validate(request, VARIANT)
    except InvalidRequest as refusal:
        return refusal
    return None
