from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from enginery.api import responses
from enginery.api.sse import SSEDecoder

WHO: Any = {"id": "resp_1", "created_at": 1_700_000_000, "model": "m"}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.mark.parametrize("status", ["completed", "incomplete", "in_progress"])
def test_a_response_is_what_the_sdk_expects(status: responses.Status) -> None:
    output = [
        responses.message("msg_1", "Hi", status),
        responses.function_call("fc_1", "call_1", "flip", "{}", status),
    ]
    reply = responses.response(
        **WHO, status=status, output=output, usage=responses.usage(3, 2, cached_tokens=1)
    )
    read = Response.model_validate(reply)
    assert (read.status, read.output_text) == (status, "Hi")
    assert read.output[1].type == "function_call"
    assert read.usage is not None
    assert (read.usage.total_tokens, read.usage.input_tokens_details.cached_tokens) == (5, 1)
    assert (read.incomplete_details is not None) is (status == "incomplete")
    assert (read.completed_at is not None) is (status == "completed")


def test_a_response_repeats_what_the_request_set() -> None:
    tool = {"type": "function", "name": "flip", "parameters": {}, "strict": False}
    reply = responses.response(**WHO, status="completed", tools=[tool], instructions="Be kind")
    read = Response.model_validate(reply)
    assert (read.instructions, read.tools[0].type) == ("Be kind", "function")


def test_events_are_what_the_sdk_expects_numbered_and_named_by_their_types() -> None:
    events = responses.Events()
    begun = responses.response(**WHO, status="in_progress")
    call = responses.function_call("fc_1", "call_1", "flip", "{}", "completed")
    ended = responses.response(**WHO, status="incomplete", output=[call])
    told = [
        *events.begun(begun),
        events.added(0, responses.message("msg_1", None, "in_progress")),
        events.text_added(0, "msg_1"),
        events.text_delta(0, "msg_1", "Hi\nyou"),
        *events.text_done(0, "msg_1", "Hi\nyou"),
        events.done(0, responses.message("msg_1", "Hi\nyou", "completed")),
        events.added(1, responses.function_call("fc_1", "call_1", "flip", "", "in_progress")),
        events.arguments_delta(1, "fc_1", "{}"),
        events.arguments_done(1, "fc_1", "flip", "{}"),
        events.done(1, call),
        events.ended(ended),
    ]
    read = SSEDecoder().feed(b"".join(map(responses.encode, told)))
    for number, (event, expected) in enumerate(zip(read, told, strict=True)):
        known = EVENT.validate_json(event.data)
        assert event.event == known.type == expected["type"]
        assert known.sequence_number == number
    assert read[-1].event == "response.incomplete"
