from __future__ import annotations

from typing import Any

import httpx2
import pytest
from anthropic import APIStatusError
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from pydantic import TypeAdapter

from enginery.api import anthropic, openai
from enginery.api.sse import SSEDecoder
from enginery.errors import (
    BodyTooLarge,
    EngineCrashed,
    EngineryError,
    EngineTimeout,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    ShuttingDown,
)

WHO: Any = {"id": "msg_1", "model": "m"}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def test_a_message_is_what_the_sdk_expects() -> None:
    content = [anthropic.text_block("Hi"), anthropic.tool_use_block("t", "flip", {"a": 1})]
    reply = anthropic.message(
        **WHO,
        content=content,
        stop_reason="tool_use",
        usage=anthropic.usage(3, 2, cached_tokens=1),
    )
    read = Message.model_validate(reply, strict=True)
    assert [block.type for block in read.content] == ["text", "tool_use"]
    assert read.usage.cache_read_input_tokens == 1
    assert MessageTokensCount.model_validate(anthropic.token_count(7)).input_tokens == 7


def test_events_are_what_the_sdk_expects_and_named_by_their_types() -> None:
    begun = anthropic.message(**WHO, content=(), stop_reason=None, usage=anthropic.usage(3, 0))
    told = [
        anthropic.message_start(begun),
        anthropic.block_start(0, anthropic.text_block("")),
        anthropic.text_delta(0, "Hi\nyou"),
        anthropic.block_stop(0),
        anthropic.block_start(1, anthropic.tool_use_block("t", "flip", {})),
        anthropic.input_delta(1, '{"a":'),
        anthropic.block_stop(1),
        anthropic.message_delta("stop_sequence", anthropic.usage(3, 2), stop_sequence="x"),
        anthropic.message_stop(),
    ]
    events = SSEDecoder().feed(b"".join(map(anthropic.encode, told)))
    for event, expected in zip(events, told, strict=True):
        assert event.event == EVENT.validate_json(event.data).type == expected["type"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("m", param="max_tokens"), "invalid_request_error"),
        (ModelNotFound("m"), "not_found_error"),
        (BodyTooLarge("m"), "request_too_large"),
        (QueueFull("m"), "rate_limit_error"),
        (EngineCrashed("m"), "api_error"),
        (EngineTimeout("m"), "api_error"),
        (ShuttingDown("m"), "overloaded_error"),
    ],
)
def test_an_error_has_anthropics_type_and_all_of_openais_fields(
    error: EngineryError, kind: str
) -> None:
    body = anthropic.error_body(error)
    assert body["type"] == "error"
    assert body["error"] == {**openai.error_body(error)["error"], "type": kind}
    assert anthropic.error_body(error, "engine")["error"]["source"] == "engine"


def test_the_sdk_reads_the_type_out_of_an_error() -> None:
    response = httpx2.Response(503, request=httpx2.Request("POST", "http://a/v1/messages"))
    body = anthropic.error_body(ShuttingDown("m"))
    assert APIStatusError("m", response=response, body=body).type == "overloaded_error"
