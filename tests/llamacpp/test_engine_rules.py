"""Each rule of `validation` and `requests`, held against the real llama.cpp.

A rule is only right while llama.cpp really answers with a 500, or with a 200 as if nothing were
wrong. When a newer llama.cpp does better, the case fails here, and the rule can go.
"""

from __future__ import annotations

import json

import pytest

from enginery import EngineRequest, InvalidRequest, Variant
from enginery_llamacpp.requests import IGNORED_FIELDS, adapt
from enginery_llamacpp.validation import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    validate,
)

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
COUNT = f"{MESSAGES}/count_tokens"
BODIES = {
    COUNT: {"messages": [USER]},
    CHAT: {"messages": [USER], "max_tokens": 2, "temperature": 0},
    COMPLETIONS: {"prompt": "hi", "max_tokens": 2, "temperature": 0},
    MESSAGES: {"messages": [USER], "max_tokens": 2, "temperature": 0},
    RESPONSES: {"input": "hi", "max_output_tokens": 2, "temperature": 0},
    EMBEDDINGS: {"input": "hi"},
}
VARIANT = Variant(model="tiny", engine_type="llama.cpp", parallel=2)


def said(*calls):
    return [USER, {"role": "assistant", "tool_calls": list(calls)}, USER]


def call(**function):
    return {"type": "function", "function": {"name": "f", "arguments": "{}"} | function}


def part(**fields):
    return [{"role": "user", "content": [fields]}]


# (route, what the client sends, the field that we name): llama.cpp blames itself, with a 500.
CALLED_500 = [
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{**USER, "name": 5}]}, "messages[0].name"),
    (CHAT, {"messages": part(type="text")}, "messages[0].content[0].text"),
    (CHAT, {"messages": part(type="text", text=5)}, "messages[0].content[0].text"),
    (CHAT, {"messages": said("x")}, "messages[1].tool_calls[0]"),
    (CHAT, {"messages": said({"id": "1"})}, "messages[1].tool_calls[0]"),
    (CHAT, {"messages": said(call(name=None))}, "messages[1].tool_calls[0].function.name"),
    (CHAT, {"messages": said(call(arguments=""))}, "messages[1].tool_calls[0].function.arguments"),
    (
        CHAT,
        {"messages": said(call(arguments="{x"))},
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        CHAT,
        {"messages": said(call(arguments="NaN"))},
        "messages[1].tool_calls[0].function.arguments",
    ),
    (CHAT, {"tools": {}}, "tools"),
    (CHAT, {"tools": "x"}, "tools"),
    (CHAT, {"tools": ["x"]}, "tools[0]"),
    (CHAT, {"tools": [{"type": "web_search"}]}, "tools[0]"),
    (CHAT, {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "f", "description": 5}}]},
        "tools[0].function.description",
    ),
    (MESSAGES, {"messages": [{"content": "x"}]}, "messages[0].role"),
    (MESSAGES, {"messages": part(type="text")}, "messages[0].content[0].text"),
    (COUNT, {"messages": [{"content": "x"}]}, "messages[0].role"),
]

# The same, but llama.cpp answers 200, to another question than the client's.
TAKEN_FOR_GOOD = [
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (CHAT, {"stop": 5}, "stop"),
    (CHAT, {"stop": {}}, "stop"),
    (CHAT, {"stop": ""}, "stop"),
    (CHAT, {"stop": ["a", ""]}, "stop"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_tokens": 1.5}, "max_tokens"),
    (CHAT, {"max_tokens": True}, "max_tokens"),
    (CHAT, {"max_tokens": 2**32 + 3}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"n_predict": 0}, "n_predict"),
    (CHAT, {"n": 1.5}, "n"),
    (CHAT, {"n": True}, "n"),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"stream_options": "x", "stream": True}, "stream_options"),
    (CHAT, {"logit_bias": "x"}, "logit_bias"),
    (CHAT, {"logit_bias": {"5": "x"}}, "logit_bias"),
    (CHAT, {"logit_bias": {"5": True}}, "logit_bias"),
    (CHAT, {"logprobs": True, "top_logprobs": "x"}, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    (CHAT, {"response_format": "json"}, "response_format"),
    (CHAT, {"response_format": {}}, "response_format.type"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    (CHAT, {"grammar": 5}, "grammar"),
    (CHAT, {"samplers": 3}, "samplers"),
    (CHAT, {"chat_template_kwargs": "x"}, "chat_template_kwargs"),
    (CHAT, {"parallel_tool_calls": "x"}, "parallel_tool_calls"),
    (CHAT, {"functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"function_call": "auto"}, "function_call"),
    (CHAT, {"modalities": ["audio"]}, "modalities"),
    (CHAT, {"tools": [FUNCTION], "tool_choice": 5}, "tool_choice"),
    (CHAT, {"tools": [FUNCTION], "tool_choice": {"type": "zork"}}, "tool_choice"),
    (
        CHAT,
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
    ),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (COMPLETIONS, {"stop": 5}, "stop"),
    (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
    (COMPLETIONS, {"echo": True}, "echo"),
    (COMPLETIONS, {"suffix": "x"}, "suffix"),
    (COMPLETIONS, {"response_format": {"type": "json_object"}}, "response_format"),
    (COMPLETIONS, {"json_schema": "x"}, "json_schema"),
    (MESSAGES, {"messages": None}, "messages"),
    (MESSAGES, {"messages": "x"}, "messages"),
    (MESSAGES, {"messages": []}, "messages"),
    (MESSAGES, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (MESSAGES, {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (MESSAGES, {"max_tokens": 0}, "max_tokens"),
    (MESSAGES, {"stop_sequences": 5}, "stop_sequences"),
    (MESSAGES, {"stop_sequences": [""]}, "stop_sequences"),
    (MESSAGES, {"tools": "x"}, "tools"),
    (MESSAGES, {"tools": [{"input_schema": {}}]}, "tools[0].name"),
    (MESSAGES, {"tool_choice": {"type": "any"}}, "tool_choice"),
    (RESPONSES, {"max_output_tokens": 0}, "max_output_tokens"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"conversation": "c"}, "conversation"),
    (RESPONSES, {"tool_choice": "required"}, "tool_choice"),
]

# llama.cpp answers with a 400 of its own; ours says more, or says it before the engine is loaded.
SAID_BETTER = [
    (CHAT, {"n": 3}, "n"),
    (CHAT, {"n": 0}, "n"),
    (CHAT, {"n": "2"}, "n"),
    (CHAT, {"max_tokens": "5"}, "max_tokens"),
    (CHAT, {"max_tokens": -5}, "max_tokens"),
    (CHAT, {"max_tokens": 10**12}, "max_tokens"),
    (CHAT, {"messages": "x"}, "messages"),
    (CHAT, {"messages": ["x"]}, "messages[0]"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"top_logprobs": "x"}, "top_logprobs"),
    (RESPONSES, {"tools": "x"}, "tools"),
]

CASES = [
    *((500, *case) for case in CALLED_500),
    *((200, *case) for case in TAKEN_FOR_GOOD),
    *((400, *case) for case in SAID_BETTER),
]


@pytest.mark.parametrize(("status", "path", "fields", "param"), CASES)
def test_a_rule_refuses_what_llama_cpp_answers_badly(chat, status, path, fields, param) -> None:
    body = BODIES[path] | fields
    with pytest.raises(InvalidRequest) as refusal:
        validate(EngineRequest(path, body), VARIANT)
    assert refusal.value.param == param
    assert chat.request(path, body).status == status


def reply_of(chat, path, body):
    found = chat.request(path, body)
    assert found.status == 200, found.body
    reply = json.loads(found.body)
    for moving in ("id", "created", "created_at", "completed_at", "timings", "usage"):
        reply.pop(moving, None)
    for item in reply.get("output", ()):
        item.pop("id", None)
    return reply


VALUES = {
    "best_of": 3,
    "echo": True,
    "include": ["x"],
    "max_tool_calls": 1,
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "tools": [FUNCTION],
    "truncation": "auto",
}


@pytest.mark.parametrize(
    ("path", "field"),
    [(p, f) for p in IGNORED_FIELDS if p != EMBEDDINGS for f in sorted(IGNORED_FIELDS[p])],
)
def test_a_field_that_is_removed_changes_nothing_in_the_reply(chat, path, field) -> None:
    plain = BODIES[path]
    body = plain | {field: VALUES.get(field, "x")}
    adapted, ignored = adapt(EngineRequest(path, body))
    assert adapted == plain
    assert ignored == (field,)
    assert reply_of(chat, path, body) == reply_of(chat, path, plain)


def test_dimensions_change_nothing_in_an_embedding(start) -> None:
    with start("tiny-chat", embedding=True, extra_args=["--pooling", "mean"]) as server:
        plain = server.request(EMBEDDINGS, {"input": "hi"}).json()["data"]
        shorter = server.request(EMBEDDINGS, {"input": "hi", "dimensions": 3, "user": "x"}).json()
        assert shorter["data"] == plain
        assert len(plain[0]["embedding"]) == 64
        # As long as the context, which is more than llama.cpp's own batch of 512: no 500.
        assert server.request(EMBEDDINGS, {"input": [5] * 1000}).status == 200


# A model with random weights begins no call by itself, so the reply is begun for it.
CALL_BEGUN = [USER, {"role": "assistant", "content": "<tool_call>\n"}]


def test_the_one_tool_that_was_chosen_is_called(chat) -> None:
    other = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    chosen = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = BODIES[CHAT] | {
        "messages": CALL_BEGUN,
        "max_tokens": 80,
        "tools": [other, chosen],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    adapted, _ = adapt(EngineRequest(CHAT, body))
    message = chat.request(CHAT, adapted).json()["choices"][0]["message"]
    assert [made["function"]["name"] for made in message["tool_calls"]][:1] == ["f"]
    assert chat.request(CHAT, body).status == 500  # read as "auto": nothing makes it a call


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_the_text_format_of_a_response_is_enforced(chat, kind) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"type": kind, "name": "nothing", "schema": schema}
    body = BODIES[RESPONSES] | {"max_output_tokens": 60, "text": {"format": wanted}}
    adapted, _ = adapt(EngineRequest(RESPONSES, body))

    def text_of(sent):
        return chat.request(RESPONSES, sent).json()["output"][0]["content"][0]["text"]

    assert text_of(adapted).lstrip().startswith("{")
    assert not text_of(body).lstrip().startswith("{")
