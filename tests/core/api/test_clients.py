"""The official clients on broken streams: wherever one breaks, they raise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import anthropic as claude
import httpx2
import openai as gpt
import pytest

from enginery.api import anthropic, openai, responses
from enginery.api.endings import Api, broken_stream_end
from enginery.api.sse import DONE, encode_event
from enginery.errors import EngineCrashed

WHO: Any = {"id": "x-1", "created": 1_700_000_000, "model": "m"}
HELLO: Any = [{"role": "user", "content": "Hello"}]
GONE = EngineCrashed("the engine is gone")


def data(chunk: Any) -> bytes:
    return encode_event(json.dumps(chunk))


def chat_stream() -> bytes:
    deltas = [{"role": "assistant", "content": ""}, {"content": "Hé"}, {"content": "llo"}]
    frames = [openai.chat_chunk(**WHO, delta=delta) for delta in deltas]
    frames += [
        openai.chat_chunk(**WHO, delta={}, finish_reason="stop"),
        openai.chat_chunk(**WHO, usage=openai.usage(3, 2)),
    ]
    return b"".join(map(data, frames)) + DONE


def completion_stream() -> bytes:
    frames = [openai.text_chunk(**WHO, text=text) for text in ("Hé", "llo")]
    frames.append(openai.text_chunk(**WHO, text="", finish_reason="stop"))
    return b"".join(map(data, frames)) + DONE


def response_stream() -> bytes:
    events = responses.Events()
    who: Any = {"id": "resp_1", "created_at": 1, "model": "m"}
    item = responses.message("msg_1", "Hé", "completed")
    told = [
        *events.begun(responses.response(**who, status="in_progress")),
        events.added(0, responses.message("msg_1", None, "in_progress")),
        events.text_added(0, "msg_1"),
        events.text_delta(0, "msg_1", "Hé"),
        *events.text_done(0, "msg_1", "Hé"),
        events.done(0, item),
        events.ended(
            responses.response(
                **who, status="completed", output=[item], usage=responses.usage(3, 2)
            )
        ),
    ]
    return b"".join(map(responses.encode, told))


def message_stream() -> bytes:
    begun = anthropic.message(
        id="msg_1", model="m", content=(), stop_reason=None, usage=anthropic.usage(3, 0)
    )
    told = [
        anthropic.message_start(begun),
        anthropic.block_start(0, anthropic.text_block("")),
        anthropic.text_delta(0, "Hé"),
        anthropic.block_stop(0),
        anthropic.message_delta("end_turn", anthropic.usage(3, 2)),
        anthropic.message_stop(),
    ]
    return b"".join(map(anthropic.encode, told))


def replies(raw: bytes) -> httpx2.MockTransport:
    headers = {"content-type": "text/event-stream"}
    return httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=raw))


def gpt_client(raw: bytes) -> gpt.OpenAI:
    http = httpx2.Client(transport=replies(raw))
    return gpt.OpenAI(api_key="k", base_url="http://a/v1", max_retries=0, http_client=http)


def claude_client(raw: bytes) -> claude.Anthropic:
    http = httpx2.Client(transport=replies(raw))
    return claude.Anthropic(api_key="k", base_url="http://a", max_retries=0, http_client=http)


def read_chat(raw: bytes) -> Iterable[Any]:
    return gpt_client(raw).chat.completions.create(model="m", messages=HELLO, stream=True)


def read_completion(raw: bytes) -> Iterable[Any]:
    return gpt_client(raw).completions.create(model="m", prompt="Hello", stream=True)


def read_response(raw: bytes) -> Iterable[Any]:
    return gpt_client(raw).responses.create(model="m", input="Hello", stream=True)


def read_message(raw: bytes) -> Iterable[Any]:
    ask: Any = {"model": "m", "messages": HELLO, "max_tokens": 9, "stream": True}
    return claude_client(raw).messages.create(**ask)


Case = tuple[Api, bytes, Callable[[bytes], Iterable[Any]]]
CASES: list[Case] = [
    ("chat", chat_stream(), read_chat),
    ("completions", completion_stream(), read_completion),
    ("responses", response_stream(), read_response),
    ("messages", message_stream(), read_message),
]
EACH = pytest.mark.parametrize(("api", "raw", "read"), CASES, ids=[case[0] for case in CASES])


@EACH
def test_a_whole_stream_is_read_to_its_end(api: Api, raw: bytes, read: Any) -> None:
    *_, last = read(raw)
    assert last is not None


@EACH
def test_between_events_the_error_is_raised_as_the_clients_own_with_our_words(
    api: Api, raw: bytes, read: Any
) -> None:
    cuts = [at for at in range(len(raw)) if raw[:at].endswith(b"\n\n")]
    for cut in [0, *cuts]:
        stream = read(raw[:cut] + broken_stream_end(api, GONE, raw[:cut]))
        with pytest.raises((gpt.APIError, claude.APIStatusError), match="the engine is gone"):
            list(stream)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.heavy)])
@EACH
def test_inside_an_event_no_client_takes_the_part_for_the_whole(
    api: Api, raw: bytes, read: Any, step: int
) -> None:
    """Half an event cannot be taken back: some clients complain of it before they see the error."""
    done = raw.index(DONE.strip()) + len(DONE.strip()) if DONE in raw else len(raw)
    for cut in range(1, done, step):
        stream = read(raw[:cut] + broken_stream_end(api, GONE, raw[:cut]))
        with pytest.raises((gpt.OpenAIError, claude.AnthropicError, ValueError)):
            list(stream)
