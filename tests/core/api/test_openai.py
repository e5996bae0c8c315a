from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from enginery.api import openai
from enginery.api.sse import SSEDecoder
from enginery.errors import (
    ContextLengthExceeded,
    EngineCrashed,
    EngineEvicted,
    InvalidRequest,
    QueueFull,
)

WHO: Any = {"id": "x-1", "created": 1_700_000_000, "model": "m"}


def test_a_chat_completion_is_what_the_sdk_expects() -> None:
    reply = openai.chat_completion(
        **WHO, content="Hi", finish_reason="stop", usage=openai.usage(3, 2, cached_tokens=1)
    )
    read = ChatCompletion.model_validate(reply, strict=True)
    assert read.choices[0].message.content == "Hi"
    assert read.usage is not None
    assert read.usage.total_tokens == 5
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 1


def test_a_tool_call_is_what_the_sdk_expects() -> None:
    call = openai.tool_call("call_1", "flip", '{"a": 1}')
    reply = openai.chat_completion(
        **WHO,
        content=None,
        finish_reason="tool_calls",
        usage=openai.usage(3, 2),
        tool_calls=[call],
    )
    read = ChatCompletion.model_validate(reply, strict=True).choices[0].message
    assert read.content is None
    assert read.tool_calls is not None
    assert read.tool_calls[0].function.arguments == '{"a": 1}'
    piece = openai.chat_chunk(**WHO, delta={"tool_calls": [{**call, "index": 0}]})
    assert piece["choices"][0]["delta"]["tool_calls"] == [
        openai.tool_call("call_1", "flip", '{"a": 1}', index=0)
    ]
    ChatCompletionChunk.model_validate(piece, strict=True)


def test_chat_chunks_are_what_the_sdk_expects() -> None:
    said = ChatCompletionChunk.model_validate(openai.chat_chunk(**WHO, delta={"content": "Hi"}))
    last = ChatCompletionChunk.model_validate(
        openai.chat_chunk(**WHO, delta={}, finish_reason="length")
    )
    cost = ChatCompletionChunk.model_validate(openai.chat_chunk(**WHO, usage=openai.usage(3, 2)))
    assert said.choices[0].delta.content == "Hi"
    assert said.usage is None
    assert last.choices[0].finish_reason == "length"
    assert cost.choices == []
    assert cost.usage is not None


def test_text_completions_and_their_chunks_are_what_the_sdk_expects() -> None:
    whole = openai.text_completion(**WHO, text="Hi", finish_reason="stop", usage=openai.usage(3, 2))
    assert Completion.model_validate(whole, strict=True).choices[0].text == "Hi"
    assert openai.text_chunk(**WHO, text="Hi")["choices"][0]["finish_reason"] is None
    assert openai.text_chunk(**WHO, usage=openai.usage(3, 2))["choices"] == []


def test_a_list_of_models_carries_our_fields_too() -> None:
    card = openai.model_card("m", created=1, owned_by="us", state="loaded")
    assert openai.models_list([card]) == {"object": "list", "data": [card]}
    assert Model.model_validate(card).owned_by == "us"
    assert card["state"] == "loaded"


def test_an_error_body_says_what_of_whom_and_from_where() -> None:
    error = InvalidRequest("n must be 1", param="n")
    assert openai.error_body(error) == {
        "error": {
            "message": "n must be 1",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request_error",
            "source": "gateway",
        }
    }
    assert openai.error_body(ContextLengthExceeded("long"), "engine")["error"]["source"] == "engine"


@pytest.mark.parametrize(
    ("after", "header"), [(None, None), (0, "0"), (0.2, "1"), (30.0, "30"), (-1, "0")]
)
def test_retry_after_is_whole_seconds_rounded_up(after: float | None, header: str | None) -> None:
    assert openai.error_headers(QueueFull("full", retry_after=after)).get("Retry-After") == header


def test_clients_are_told_not_to_send_twice_what_an_engine_may_have_seen() -> None:
    error = EngineCrashed("gone")
    assert openai.error_headers(error) == {}
    assert openai.error_headers(error, engine_saw_request=True) == {"x-should-retry": "false"}


@pytest.mark.parametrize("done", [True, False])
def test_a_stream_error_is_one_event_that_each_client_finds_its_fields_in(done: bool) -> None:
    raw = openai.stream_error(EngineEvicted("made\nroom"), sequence_number=7, done=done)
    frame, *rest = SSEDecoder().feed(raw)
    assert frame.event == "error"
    assert json.loads(frame.data) == {
        "type": "error",
        "code": "engine_evicted",
        "message": "made\nroom",
        "param": None,
        "sequence_number": 7,
        "error": {"type": "server_error", "code": "engine_evicted", "message": "made\nroom"},
    }
    assert [event.data for event in rest] == (["[DONE]"] if done else [])


def test_importing_the_event_format_imports_no_library() -> None:
    script = (
        "import sys, enginery.api.sse; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & {"aiohttp", "asyncio", "msgspec", "pydantic", "pluggy"}
