"""The framework's own answers: sound bounds, and a health check that believes only what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enginery import (
    Endpoint,
    EngineReply,
    EngineRequest,
    EngineUnreachable,
    Health,
    RunningEngine,
    TokenEstimate,
    Variant,
)
from enginery.defaults import DEFAULT_ENDPOINTS, EngineDefaults

DEFAULTS = EngineDefaults()

text = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {
                    "name": text,
                    "description": text | st.none(),
                    # a schema's `type` may be a list, a mapping (a property of that name) or "file"
                    "parameters": st.fixed_dictionaries(
                        {"type": json_values, "properties": json_values}
                    ),
                }
            ),
        }
    ),
    max_size=3,
)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": text}), max_size=3)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": text | parts},
        optional={"tool_calls": tools, "name": text},
    ),
    max_size=4,
)
chats = st.fixed_dictionaries({"messages": messages}, optional={"tools": tools, "functions": tools})
bodies = st.dictionaries(
    st.sampled_from(
        [
            "messages",
            "prompt",
            "suffix",
            "input",
            "tools",
            "functions",
            "system",
            "response_format",
            "x",
        ]
    ),
    json_values,
    max_size=4,
)


def estimate(body: Mapping[str, Any]) -> TokenEstimate:
    return DEFAULTS.estimate_tokens(EngineRequest("/v1/chat/completions", dict(body)))


def utf8(value: str) -> int:
    return len(value.encode("utf-8", "surrogatepass"))


def written_out(value: Any) -> int:
    """Bytes of a value as the widest template in use writes it."""
    return utf8(json.dumps(value, ensure_ascii=False, indent=4))


def quoted_for_html(value: str) -> int:
    """As Jinja's own ``tojson`` does it."""
    dumped = json.dumps(value, ensure_ascii=False)
    for letter, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("'", "\\u0027")):
        dumped = dumped.replace(letter, escape)
    return utf8(dumped)


def rendered(message: Mapping[str, Any]) -> int:
    """Bytes of a message in a template: its words, its tool calls as JSON, role and markers."""
    content = message["content"]
    words = [content] if isinstance(content, str) else [part["text"] for part in content]
    size = sum(map(quoted_for_html if message["role"] == "tool" else utf8, words))
    if "tool_calls" in message:
        size += written_out(message["tool_calls"])
    return (
        size
        + utf8(message.get("name", ""))
        + len("<|start_header_id|>assistant<|end_header_id|>\n\n")
    )


@given(chats)
def test_a_chat_never_has_more_byte_tokens_than_the_upper_bound(body) -> None:
    bounds = estimate(body)
    size = sum(map(rendered, body["messages"]))
    size += sum(written_out(body[field]) for field in ("tools", "functions") if field in body)
    assert bounds.high is not None
    assert bounds.low <= size <= bounds.high


@given(bodies)
@example({"tools": [{"type": ["string", "null"]}]})
@example({"messages": [{"type": {"a": 1}, "content": None}]})
@example({"tools": [None] * 50})
def test_any_json_at_all_has_sound_bounds(body) -> None:
    bounds = estimate(body)
    assert bounds.low == 0
    for field in ("tools", "functions", "response_format"):
        if bounds.high is not None and body.get(field):
            assert written_out(body[field]) <= bounds.high
    for field in ("prompt", "suffix", "input"):
        if bounds.high is not None and isinstance(body.get(field), str):
            assert utf8(body[field]) <= bounds.high


@given(st.text(max_size=200))
def test_the_bound_of_a_plain_prompt_is_its_bytes_and_the_special_tokens(prompt) -> None:
    assert estimate({"prompt": prompt}) == TokenEstimate(0, utf8(prompt) + 3)


@given(st.lists(st.integers(0, 200_000), max_size=50))
def test_a_list_of_tokens_is_counted_and_not_spelled_out(tokens) -> None:
    assert estimate({"prompt": tokens}) == TokenEstimate(0, len(tokens) + 3)


def test_several_prompts_count_together() -> None:
    bounds = estimate({"input": ["a" * 100, "b" * 100]})
    assert bounds.high is not None
    assert 200 <= bounds.high < 250


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,xxxx"}},
        {"type": "input_audio", "input_audio": {"data": "xxxx", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "x"}},
        {"type": "input_file", "file_id": "x"},
        {"type": "tool_result", "content": [{"type": "image", "source": {}}]},
        {"type": "function_call_output", "output": [{"type": "input_image"}]},
    ],
)
@pytest.mark.parametrize("field", ["messages", "input"])
def test_what_is_not_text_has_no_upper_bound(part, field) -> None:
    content = [{"type": "text", "text": "what is this?"}, part]
    assert estimate({field: [{"role": "user", "content": content}]}) == TokenEstimate(0, None)


def test_a_tool_with_an_argument_called_image_is_still_text() -> None:
    schema = {
        "type": "object",
        "properties": {"image": {"type": "string"}, "type": {"type": "file"}},
    }
    bounds = estimate({"messages": [], "tools": [{"type": "function", "function": schema}]})
    assert bounds.high is not None


def test_a_deep_body_is_no_problem() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    assert estimate({"messages": deep}).high is not None
    while isinstance(deep, list):  # freed level by level: the interpreter's own way is recursive
        deep = deep.pop()


def test_settings_of_the_request_do_not_count() -> None:
    assert estimate({"prompt": "x", "temperature": 1.0, "metadata": {"a": "b" * 99}}).high == 4


# -- health ------------------------------------------------------------------------------------


def engine_that_answers(
    answers: Mapping[str, int | Exception], health_path: str = "/health"
) -> tuple[RunningEngine, list[str]]:
    asked: list[str] = []

    async def transport(method, path, body, timeout) -> EngineReply:
        assert (method, body) == ("GET", None)
        asked.append(path)
        answer = answers.get(path, 404)
        if isinstance(answer, Exception):
            raise answer
        return EngineReply(answer, {}, b'{"error": {"message": "because"}}')

    return RunningEngine(Variant("m"), Endpoint("h", 1), None, transport, health_path), asked


GONE = EngineUnreachable("connection refused")


@pytest.mark.parametrize(
    ("answers", "health", "asked"),
    [
        ({"/health": 200}, Health("ready"), ["/health"]),
        ({"/health": 204}, Health("ready"), ["/health"]),
        ({"/health": 503}, Health("starting", detail="HTTP 503: because"), ["/health"]),
        ({"/health": 502}, Health("starting", detail="HTTP 502: because"), ["/health"]),
        ({"/health": 429}, Health("starting", detail="HTTP 429: because"), ["/health"]),
        ({"/health": 401}, Health("failed", detail="HTTP 401: because"), ["/health"]),
        ({"/health": 302}, Health("failed", detail="HTTP 302: because"), ["/health"]),
        ({"/health": GONE}, Health("starting", detail="connection refused"), ["/health"]),
        ({"/v1/models": 200}, Health("ready"), ["/health", "/v1/models"]),
        ({"/health": 405, "/v1/models": 200}, Health("ready"), ["/health", "/v1/models"]),
        ({"/health": 501, "/v1/models": 503}, Health("starting", detail="HTTP 503: because"), None),
        ({"/v1/models": 401}, Health("failed", detail="HTTP 401: because"), None),
        ({"/v1/models": GONE}, Health("starting", detail="connection refused"), None),
        ({}, Health("failed", detail="HTTP 404: because"), ["/health", "/v1/models"]),
    ],
)
async def test_health_is_what_the_server_says_of_itself(answers, health, asked) -> None:
    engine, questions = engine_that_answers(answers)
    assert await DEFAULTS.check_health(engine) == health
    assert questions == (asked or ["/health", "/v1/models"])


async def test_the_plugins_own_health_path_is_asked() -> None:
    engine, asked = engine_that_answers({"/ok": 200}, "/ok")
    assert await DEFAULTS.check_health(engine) == Health("ready")
    engine, asked = engine_that_answers({}, "/v1/models")
    assert (await DEFAULTS.check_health(engine)).state == "failed"
    assert asked == ["/v1/models"]


@pytest.mark.parametrize(
    "body", [b"<html>" * 100, b"[]", b'{"error": "x"}', b"\xff", b"[" * 100_000]
)
async def test_a_strange_error_body_is_shown_as_it_is_and_cut(body) -> None:
    async def transport(method, path, body_, timeout) -> EngineReply:
        return EngineReply(500, {}, body)

    engine = RunningEngine(Variant("m"), Endpoint("h", 1), None, transport)
    detail = (await DEFAULTS.check_health(engine)).detail
    assert detail == "HTTP 500: " + body[:200].decode("utf-8", "replace")


def test_the_other_defaults_promise_little() -> None:
    assert DEFAULTS.get_supported_endpoints() == DEFAULT_ENDPOINTS
    assert DEFAULTS.prefers_stream() is False
    assert DEFAULTS.sleep_levels(Variant("m")) == ()
