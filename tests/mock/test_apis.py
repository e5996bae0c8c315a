"""The mock through the official clients, of OpenAI and Anthropic, sync and async."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from http.client import IncompleteRead
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from enginery.api.aggregate import Fold, streaming_fields
from enginery.api.endings import api_of, stream_ending, usage_of, usage_of_counts
from enginery.api.sse import SSEDecoder
from enginery_mock.flags import API_KEY_VARIABLE

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
RESPONSE_TOOL: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
MESSAGE_TOOL: Any = {"name": "weather", "input_schema": SCHEMA}


@pytest.fixture
def client(mock: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(mock: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mock.url, api_key="any", max_retries=0) as client:
        yield client


def fits(arguments: Any) -> bool:
    return isinstance(arguments["city"], str) and arguments["days"] in range(10)


# -- one reply, whole or streamed ------------------------------------------------------------------

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HELLO}),
    "chat, cut": (CHAT, {"messages": HELLO, "max_tokens": 3}),
    "chat, tool": (CHAT, {"messages": HELLO, "tools": [CHAT_TOOL], "tool_choice": "required"}),
    "completion": (COMPLETIONS, {"prompt": "Once upon"}),
    "response": (RESPONSES, {"input": "Hello, you"}),
    "response, cut": (RESPONSES, {"input": HELLO, "max_output_tokens": 3}),
    "response, tool": (
        RESPONSES,
        {"input": HELLO, "tools": [RESPONSE_TOOL], "tool_choice": "required"},
    ),
    "message": (MESSAGES, {"messages": HELLO, "max_tokens": 90}),
    "message, cut": (MESSAGES, {"messages": HELLO, "max_tokens": 3}),
    "message, tool": (
        MESSAGES,
        {
            "messages": HELLO,
            "max_tokens": 90,
            "tools": [MESSAGE_TOOL],
            "tool_choice": {"type": "any"},
        },
    ),
    "message, tool cut": (
        MESSAGES,
        {
            "messages": HELLO,
            "max_tokens": 3,
            "tools": [MESSAGE_TOOL],
            "tool_choice": {"type": "any"},
        },
    ),
}


def stream_of(mock: Any, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps({**body, **streaming_fields(api_of(path), body)}).encode()
    with urllib.request.urlopen(urllib.request.Request(mock.url + path, data), timeout=20) as reply:
        return bytes(reply.read())


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
def test_a_stream_says_all_that_a_whole_reply_says(mock: Any, path: str, body: Any) -> None:
    _, whole = mock.get(path, body)
    raw = stream_of(mock, path, body)
    folding = Fold(api_of(path))
    for event in SSEDecoder().feed(raw):
        folding.feed(event)
    folded = folding.finish()
    for reply in (whole, folded):
        for when in ("created", "created_at", "completed_at"):
            reply.pop(when, None)
    for choice in folded.get("choices", ()):
        if "message" in choice:  # OpenAI: null beside a call; the fold is llama.cpp's: ""
            choice["message"]["content"] = choice["message"]["content"] or None
    assert folded == whole
    assert stream_ending(api_of(path), raw[-4096:]) == "complete"
    assert usage_of(raw[-4096:], raw[:4096]) == usage_of_counts(whole["usage"])


def test_one_conversation_has_one_answer_and_one_price_in_every_api(mock: Any) -> None:
    _, chat = mock.get(CHAT, {"messages": [{"role": "system", "content": "Be kind"}, *HELLO]})
    _, response = mock.get(RESPONSES, {"instructions": "Be kind", "input": "Hello, you"})
    _, message = mock.get(MESSAGES, {"system": "Be kind", "messages": HELLO})
    said = chat["choices"][0]["message"]["content"]
    assert response["output"][0]["content"][0]["text"] == said
    assert message["content"][0]["text"] == said
    assert usage_of_counts(chat["usage"]).prompt_tokens == 16
    assert usage_of_counts(message["usage"]) == usage_of_counts(chat["usage"])
    assert (
        usage_of_counts(response["usage"]).completion_tokens == chat["usage"]["completion_tokens"]
    )


# -- chats with tools ------------------------------------------------------------------------------


def test_a_required_tool_is_called_with_arguments_that_fit(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="m", messages=HELLO, tools=[CHAT_TOOL], tool_choice="required"
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].message.content is None
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert fits(json.loads(call.function.arguments))


def test_the_clients_own_folding_of_a_streamed_call_agrees(client: openai.OpenAI) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "tools": [CHAT_TOOL], "tool_choice": "required"}
    whole = client.chat.completions.create(**ask)
    with client.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
        folded = stream.get_final_completion()
    assert folded.usage == whole.usage
    ours, theirs = (reply.choices[0].message.tool_calls for reply in (whole, folded))
    assert ours is not None
    assert theirs is not None
    assert (ours[0].id, ours[0].function.arguments) == (
        theirs[0].id,
        theirs[0].function.arguments,
    )


# -- responses -------------------------------------------------------------------------------------


def test_a_response_answers_the_official_client(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="m", input="Hello, you")
    assert reply.status == "completed"
    assert reply.output_text
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens_details.reasoning_tokens) == (10, 0)
    Response.model_validate(reply.model_dump(mode="json"), strict=False)
    cut = client.responses.create(model="m", input="Hello, you", max_output_tokens=3)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_the_events_of_a_response_are_numbered_and_in_order(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="m", input="Hello, you")
    events = list(client.responses.create(model="m", input="Hello, you", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type.removeprefix("response.") for event in events))
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == whole.output_text
    assert events[-1].response.output == whole.output


def test_the_clients_own_folding_of_a_response_agrees(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="m", input="Hello, you")
    with client.responses.stream(model="m", input="Hello, you") as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_a_response_calls_the_tool_that_is_named(client: openai.OpenAI) -> None:
    other: Any = {**RESPONSE_TOOL, "name": "other"}
    ask: Any = {"model": "m", "input": "Hello, you", "tools": [other, RESPONSE_TOOL]}
    ask["tool_choice"] = {"type": "function", "name": "weather"}
    (call,) = client.responses.create(**ask).output
    assert call.type == "function_call"
    assert call.name == "weather"
    assert fits(json.loads(call.arguments))
    with client.responses.stream(**ask) as stream:
        assert stream.get_final_response().output[0].call_id == call.call_id


async def test_responses_answer_the_official_async_client(mock: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="any") as client:
        whole = await client.responses.create(model="m", input=HELLO)
        stream = await client.responses.create(model="m", input=HELLO, stream=True)
        *_, last = [event async for event in stream]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text


# -- messages --------------------------------------------------------------------------------------


def test_a_message_answers_the_official_client(claude: anthropic.Anthropic) -> None:
    reply = claude.messages.create(model="m", messages=HELLO, max_tokens=90)
    assert reply.content[0].type == "text"
    assert reply.stop_reason == "end_turn"
    assert reply.usage.input_tokens == 10
    Message.model_validate(reply.model_dump(mode="json"))
    cut = claude.messages.create(model="m", messages=HELLO, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def test_a_streamed_message_is_the_same_message(claude: anthropic.Anthropic) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 90}
    whole = claude.messages.create(**ask)
    with claude.messages.stream(**ask) as stream:
        said = "".join(stream.text_stream)
        folded = stream.get_final_message()
    assert said == whole.content[0].text
    assert folded.content[0].text == said
    assert (folded.id, folded.usage, folded.stop_reason) == (whole.id, whole.usage, "end_turn")


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 90}
    text = claude.messages.create(**ask).content[0].text
    cut = claude.messages.create(**ask, stop_sequences=[text[8:12], "never said"])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", text[8:12])
    with claude.messages.stream(**ask, stop_sequences=[text[8:12]]) as stream:
        assert stream.get_final_message().stop_sequence == text[8:12]


def test_a_message_calls_a_tool_streamed_or_not(claude: anthropic.Anthropic) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 90, "tools": [MESSAGE_TOOL]}
    ask["tool_choice"] = {"type": "tool", "name": "weather"}
    whole = claude.messages.create(**ask)
    (call,) = whole.content
    assert call.type == "tool_use"
    assert whole.stop_reason == "tool_use"
    assert fits(call.input)
    with claude.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == call.input


def test_tokens_are_counted_as_they_will_be_charged(claude: anthropic.Anthropic) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "system": [{"type": "text", "text": "Be kind"}]}
    counted = claude.messages.count_tokens(**ask).input_tokens
    assert counted == claude.messages.create(**ask, max_tokens=3).usage.input_tokens == 16


async def test_messages_answer_the_official_async_client(mock: Any) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 90}
    async with anthropic.AsyncAnthropic(base_url=mock.url, api_key="any") as client:
        whole = await client.messages.create(**ask)
        async with client.messages.stream(**ask) as stream:
            folded = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="m", messages=HELLO)
    assert folded.content[0].text == whole.content[0].text
    assert counted.input_tokens == whole.usage.input_tokens


def test_errors_raise_the_classes_of_anthropics_client(
    claude: anthropic.Anthropic, start: Any
) -> None:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 9}
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(**{**ask, "messages": []})
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="exceeds the available context"):
        claude.messages.create(**{**ask, "messages": [{"role": "user", "content": "word " * 200}]})
    locked = start(env={API_KEY_VARIABLE: "secret"}).wait_until_ready()
    with anthropic.Anthropic(base_url=locked.url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.create(**ask)
        assert client.with_options(api_key="secret").messages.create(**ask).content


# -- when a tool is called, and dying --------------------------------------------------------------


def test_automatic_calls_are_made_for_some_conversations_and_repeatable(mock: Any) -> None:
    called = []
    for number in range(20):
        ask = {"messages": [{"role": "user", "content": f"Case {number}"}], "tools": [CHAT_TOOL]}
        reply = mock.get(CHAT, ask)[1]["choices"]
        assert reply == mock.get(CHAT, ask)[1]["choices"]
        called.append(reply[0]["finish_reason"] == "tool_calls")
    assert 0 < sum(called) < 20


def test_no_tool_is_called_against_a_clients_will_or_after_a_result(mock: Any) -> None:
    def reasons(**more: Any) -> set[str]:
        found = set()
        for number in range(12):
            ask = {
                "messages": [{"role": "user", "content": f"Case {number}"}],
                "tools": [CHAT_TOOL],
            }
            ask["messages"] += more.get("then", [])
            ask["tool_choice"] = more.get("choice", "auto")
            found.add(mock.get(CHAT, ask)[1]["choices"][0]["finish_reason"])
        return found

    assert "tool_calls" in reasons()
    assert "tool_calls" not in reasons(choice="none")
    result = {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}
    assert "tool_calls" not in reasons(then=[result])


def test_after_a_tools_result_a_message_and_a_response_answer_with_words(mock: Any) -> None:
    use = {"type": "tool_use", "id": "t", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "Rain"}
    told = [*HELLO, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    _, message = mock.get(MESSAGES, {"messages": told, "tools": [MESSAGE_TOOL]})
    assert message["content"][0]["type"] == "text"
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "Rain"}
    items = [*HELLO, {"type": "reasoning", "summary": []}, call, output]
    _, response = mock.get(RESPONSES, {"input": items, "tools": [RESPONSE_TOOL]})
    assert response["output"][0]["type"] == "message"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": HELLO, "tools": 3}, "tools"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "function"}]}, "tools[0]"),
        (CHAT, {"messages": HELLO, "tools": [CHAT_TOOL], "tool_choice": "maybe"}, "tool_choice"),
        (
            CHAT,
            {
                "messages": HELLO,
                "tools": [CHAT_TOOL],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "tool_choice",
        ),
        (
            MESSAGES,
            {
                "messages": HELLO,
                "tools": [MESSAGE_TOOL],
                "tool_choice": {"type": "tool", "name": "x"},
            },
            "tool_choice",
        ),
        (RESPONSES, {}, "input"),
        (RESPONSES, {"input": [3]}, "input[0]"),
        (RESPONSES, {"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        (MESSAGES, {"messages": HELLO, "stop_sequences": [""]}, "stop_sequences"),
    ],
)
def test_wrong_fields_are_refused_by_name(mock: Any, path: str, body: Any, param: str) -> None:
    status, reply = mock.get(path, body)
    assert (status, reply["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body"), [REQUESTS["response"], REQUESTS["message"], REQUESTS["chat, tool"]]
)
@pytest.mark.parametrize("frame", [1, 4])
def test_it_dies_at_a_frame_of_any_api(start: Any, path: str, body: Any, frame: int) -> None:
    mock = start("--die-at-frame", str(frame)).wait_until_ready()
    data = json.dumps({**body, "stream": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(mock.url + path, data), timeout=20) as reply:
        with pytest.raises(IncompleteRead) as broken:
            reply.read()
        got = broken.value.partial
    assert mock.end()[0] == 137
    assert len(SSEDecoder().feed(got)) == frame
    assert stream_ending(api_of(path), got[-4096:]) == "truncated"


def test_a_chat_is_strictly_what_the_sdk_declares(mock: Any) -> None:
    for name in ("chat", "chat, tool"):
        path, body = REQUESTS[name]
        ChatCompletion.model_validate(mock.get(path, body)[1], strict=True)
