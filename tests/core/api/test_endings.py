from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enginery.api import anthropic, openai, responses
from enginery.api.endings import (
    TAIL_BYTES,
    Api,
    Usage,
    api_of,
    body_is_complete,
    broken_stream_end,
    stream_ending,
    usage_of,
    usage_of_counts,
)
from enginery.api.sse import DONE, SSEDecoder, encode_comment, encode_event
from enginery.errors import EngineCrashed

WHO: Any = {"id": "x-1", "created": 1_700_000_000, "model": "m"}
TRAPS = (
    "plain",
    'say "finish_reason":"stop" and "usage":{"prompt_tokens":9,"completion_tokens":9}',
    '{"type":"response.completed"}\n\ndata: [DONE]\n\n',
    'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    '\\","usage":{"input_tokens":7,"output_tokens":7}',
    "über " * 2000,
)


def data(value: Any) -> bytes:
    return encode_event(json.dumps(value, separators=(",", ":")))


def chat(text: str, *, usage: bool = True) -> bytes:
    frames = [
        data(openai.chat_chunk(**WHO, delta={"role": "assistant", "content": text})),
        data(openai.chat_chunk(**WHO, delta={}, finish_reason="stop")),
    ]
    if usage:
        frames.append(data(openai.chat_chunk(**WHO, usage=openai.usage(3, 2, cached_tokens=1))))
    return b"".join(frames) + DONE


def completion(text: str, *, usage: bool = True) -> bytes:
    frames = [
        data(openai.text_chunk(**WHO, text=text)),
        data(openai.text_chunk(**WHO, text="", finish_reason="length")),
    ]
    if usage:
        frames.append(data(openai.text_chunk(**WHO, usage=openai.usage(3, 2, cached_tokens=1))))
    return b"".join(frames) + DONE


def response(text: str) -> bytes:
    events = responses.Events()
    who: Any = {"id": "resp_1", "created_at": 1, "model": "m"}
    item = responses.message("msg_1", text, "completed")
    counts = responses.usage(3, 2, cached_tokens=1)
    told = [
        *events.begun(responses.response(**who, status="in_progress")),
        events.added(0, responses.message("msg_1", None, "in_progress")),
        events.text_added(0, "msg_1"),
        events.text_delta(0, "msg_1", text),
        *events.text_done(0, "msg_1", text),
        events.done(0, item),
        events.ended(responses.response(**who, status="completed", output=[item], usage=counts)),
    ]
    return b"".join(map(responses.encode, told))


def message(text: str) -> bytes:
    begun = anthropic.message(
        id="msg_1",
        model="m",
        content=(),
        stop_reason=None,
        usage=anthropic.usage(2, 0, cached_tokens=1),
    )
    told = [
        anthropic.message_start(begun),
        anthropic.block_start(0, anthropic.text_block("")),
        anthropic.text_delta(0, text),
        anthropic.block_stop(0),
        anthropic.message_delta("end_turn", {"output_tokens": 2}),
        anthropic.message_stop(),
    ]
    return b"".join(map(anthropic.encode, told))


STREAMS: dict[Api, Any] = {
    "chat": chat,
    "completions": completion,
    "responses": response,
    "messages": message,
}
APIS = pytest.mark.parametrize("api", STREAMS)


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", "chat"),
        ("/chat/completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "other"),
        ("/v1/embeddings", "other"),
        ("/completion", "other"),
    ],
)
def test_a_path_tells_its_api(path: str, api: Api) -> None:
    assert api_of(path) == api


@APIS
@pytest.mark.parametrize("text", TRAPS, ids=range(len(TRAPS)))
def test_a_stream_is_complete_at_its_very_end_and_nowhere_before(api: Api, text: str) -> None:
    raw = STREAMS[api](text)
    assert stream_ending(api, raw[-TAIL_BYTES:]) == "complete"
    for end in range(len(raw)):
        assert stream_ending(api, raw[:end][-TAIL_BYTES:]) == "truncated"


@APIS
@given(text=st.text(alphabet=st.sampled_from('a"\\{},:\n é[]') | st.characters(codec="utf-8")))
@example(text='"finish_reason":"stop"')
def test_no_text_makes_a_part_pass_for_the_whole(api: Api, text: str) -> None:
    raw = STREAMS[api](text)
    boundaries = [end for end in range(len(raw)) if raw[:end].endswith(b"\n\n")]
    assert {stream_ending(api, raw[:end][-TAIL_BYTES:]) for end in [0, *boundaries]} == {
        "truncated"
    }
    assert stream_ending(api, raw[-TAIL_BYTES:]) == "complete"


@APIS
def test_line_ends_and_comments_change_nothing(api: Api) -> None:
    raw = STREAMS[api]("Hi")
    for line_end in (b"\r\n", b"\r"):
        assert stream_ending(api, raw.replace(b"\n", line_end)) == "complete"
    assert stream_ending(api, raw + encode_comment("keep-alive")) == "complete"
    assert stream_ending(api, raw + b"\n") == "complete"


@APIS
def test_a_stream_of_an_api_is_none_of_another(api: Api) -> None:
    raw = STREAMS[api]("Hi")
    alike = {"chat", "completions"}
    for other in STREAMS:
        if other != api and {api, other} != alike:
            assert stream_ending(other, raw) == "truncated"


def test_a_done_that_follows_no_reply_is_no_end() -> None:
    role = data(openai.chat_chunk(**WHO, delta={"role": "assistant", "content": "Hi"}))
    assert stream_ending("chat", role + DONE) == "truncated"
    assert stream_ending("chat", (role * 100 + DONE)[-TAIL_BYTES:]) == "truncated"
    assert stream_ending("chat", DONE) == "truncated"


@pytest.mark.parametrize("size", [8, 13, 20, 60, 300])
def test_a_done_is_believed_when_little_else_is_seen(size: int) -> None:
    assert stream_ending("chat", chat("Hi")[-size:]) == "complete"


def test_a_done_is_believed_when_one_chunk_fills_the_tail() -> None:
    last = openai.chat_chunk(**WHO, delta={}, finish_reason="stop")
    raw = data(last | {"logprobs": "x" * 2 * TAIL_BYTES}) + DONE
    assert stream_ending("chat", raw[-TAIL_BYTES:]) == "complete"


@pytest.mark.parametrize(
    ("api", "frame"),
    [
        ("chat", b'data: {"error":{"code":500,"message":"m","type":"server_error"}}\n\n'),
        ("responses", b'data: {"error":{"code":500,"message":"m","type":"server_error"}}\n\n'),
        ("messages", b'event: error\ndata: {"code":500,"message":"m","type":"server_error"}\n\n'),
        ("messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n'),
        ("completions", b'data: {"error": {"message": "m"}}\n\ndata: [DONE]\n\n'),
        ("other", b'data: {"error": "m"}\n\n'),
    ],
)
def test_a_stream_that_ends_with_an_error_of_the_engine_has_ended(api: Api, frame: bytes) -> None:
    part = STREAMS.get(api, chat)("Hi")
    assert stream_ending(api, part[: part.index(b"\n\n") + 2] + frame) == "error"
    assert stream_ending(api, part[: part.index(b"\n\n") + 2] + frame[:-1]) == "truncated"


def test_a_text_about_errors_is_no_error() -> None:
    raw = data(openai.chat_chunk(**WHO, delta={"content": '{"error":{"message":"m"}}'}))
    assert stream_ending("chat", raw) == "truncated"


def test_a_stream_without_known_closing_words_is_complete_between_events() -> None:
    raw = data({"content": "Hi", "stop": True})
    assert stream_ending("other", raw) == "complete"
    assert {stream_ending("other", raw[:end]) for end in range(len(raw))} == {"truncated"}


@pytest.mark.parametrize("kind", ["response.incomplete", "response.failed"])
def test_a_response_may_also_end_incomplete_or_failed(kind: str) -> None:
    assert stream_ending("responses", data({"type": kind, "response": {}})) == "complete"


@pytest.mark.parametrize("cut", [0, 1, 50])
def test_a_long_response_is_known_by_what_stands_after_its_text(cut: int) -> None:
    """vLLM writes the type last; OpenAI and llama.cpp the counts."""
    output = [responses.message("msg_1", "word " * 2000, "completed")]
    last: Any = {"response": {"output": output, "usage": None, "user": None}, "sequence_number": 8}
    raw = data({**last, "type": "response.completed"})
    assert stream_ending("responses", raw[-TAIL_BYTES + cut :]) == "complete"
    assert stream_ending("responses", data({**last, "type": "response.x"})[-TAIL_BYTES:]) == (
        "truncated"
    )


# -- usage -----------------------------------------------------------------------------------------


@APIS
@pytest.mark.parametrize("text", TRAPS, ids=range(len(TRAPS)))
def test_usage_is_found_at_the_end_of_a_stream(api: Api, text: str) -> None:
    raw = STREAMS[api](text)
    assert usage_of(raw[-TAIL_BYTES:], raw[:TAIL_BYTES]) == Usage(3, 2, 1)


def test_without_usage_there_is_none() -> None:
    raw = chat(TRAPS[1], usage=False)
    assert usage_of(raw) is None
    assert usage_of(b"") is None
    assert usage_of(b'{"usage":null}') is None
    assert usage_of(b'{"usage":{"prompt_tok') is None


VLLM = (
    '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[%s],"service_tier":null,'
    '"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2,"prompt_tokens_details":null},'
    '"prompt_logprobs":null,"kv_transfer_params":null}'
)
LLAMA_CPP = (
    '{"choices":[%s],"created":1,"model":"m","usage":{"completion_tokens":2,"prompt_tokens":3,'
    '"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}},"id":"c","timings":{"cache_n":0}}'
)
MESSAGE = (
    '{"id":"m","type":"message","content":[%s],"model":"m","stop_reason":"end_turn",'
    '"usage":{"cache_read_input_tokens":1,"input_tokens":2,"output_tokens":2}}'
)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(VLLM, Usage(3, 2)), (LLAMA_CPP, Usage(3, 2, 1)), (MESSAGE, Usage(3, 2, 1))],
    ids=["vllm", "llama.cpp", "messages"],
)
@pytest.mark.parametrize("text", TRAPS, ids=range(len(TRAPS)))
def test_usage_is_found_in_whole_replies(shape: str, expected: Usage, text: str) -> None:
    body = (shape % json.dumps({"input": {"usage": {"input_tokens": 9}}, "text": text})).encode()
    assert usage_of(body[-TAIL_BYTES:]) == expected


def test_the_last_usage_counts_however_it_is_written() -> None:
    events = (
        b'data: {"id":1,"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
        b'data: {"id": 1, "usage": {"prompt_tokens": 1, "completion_tokens": 7}}\n\n',
    )
    assert usage_of(b"".join(events)) == Usage(1, 7)
    assert usage_of(b"".join(reversed(events))) == Usage(1, 1)


def test_embeddings_of_llama_cpp_state_their_usage_first() -> None:
    body = b'{"model":"m","object":"list","usage":{"prompt_tokens":6,"total_tokens":6},"data":['
    body += b"0.123456789," * 1000 + b"0]}"
    assert usage_of(body[-TAIL_BYTES:]) is None
    assert usage_of(body[-TAIL_BYTES:], body[:TAIL_BYTES]) == Usage(6)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, Usage()),
        ({"prompt_tokens": "3", "completion_tokens": True}, Usage()),
        ({"input_tokens": 4, "input_tokens_details": {"cached_tokens": 2}}, Usage(4, None, 2)),
        ({"input_tokens": 1, "cache_creation_input_tokens": 5, "output_tokens": 2}, Usage(6, 2)),
        ({"prompt_tokens_details": [], "prompt_tokens": -1}, Usage()),
    ],
)
def test_counts_are_read_in_every_apis_words(counts: Any, expected: Usage) -> None:
    assert usage_of_counts(counts) == expected


# -- bodies, and broken streams --------------------------------------------------------------------


def test_a_body_is_complete_as_a_whole_only() -> None:
    body = (LLAMA_CPP % '{"text":"}"}').encode()
    assert body_is_complete(body)
    assert not any(body_is_complete(body[:end]) for end in range(len(body)))
    assert not body_is_complete(body + b"}")
    assert not body_is_complete(b"[" * 100_000)


@APIS
def test_a_broken_stream_ends_with_an_error_wherever_it_broke(api: Api) -> None:
    raw = STREAMS[api]('line\none é "two"')
    for end in range(len(raw)):
        sent = raw[:end] + broken_stream_end(api, EngineCrashed("gone"), raw[:end][-TAIL_BYTES:])
        decoder = SSEDecoder()
        events = decoder.feed(sent)
        assert decoder.at_boundary
        done = [event.data for event in events if event.data == "[DONE]"]
        if api in {"chat", "completions"}:
            assert events.pop().data == "[DONE]"
        else:
            assert not done
        frame = json.loads(events[-1].data)
        assert events[-1].event == "error"
        assert frame["error"]["message"] == frame["message"] == "gone"
        # what had come before is there, and unchanged
        whole = SSEDecoder().feed(raw[:end])
        assert events[: len(whole)] == whole


@pytest.mark.parametrize("cut", [b"data: {}\r", b"data: {}\r\n", b"data: {}", b"\r\r"])
def test_an_open_event_is_closed_whatever_its_line_ends(cut: bytes) -> None:
    *_, last = SSEDecoder().feed(cut + broken_stream_end("messages", EngineCrashed("gone"), cut))
    assert last.event == "error"


def test_the_error_of_a_response_has_the_next_number() -> None:
    raw = response("Hi")
    events = SSEDecoder().feed(raw)
    for place, event in enumerate(events):
        cut = raw[: raw.index(event.data.encode()) + len(event.data) + 2]
        (frame,) = SSEDecoder().feed(broken_stream_end("responses", EngineCrashed("gone"), cut))
        assert json.loads(frame.data)["sequence_number"] == place + 1
    (frame,) = SSEDecoder().feed(broken_stream_end("responses", EngineCrashed("gone")))
    assert json.loads(frame.data)["sequence_number"] == 0


@pytest.mark.parametrize(
    "tail", [b'{"usage":' * 455, b'{"usage":{' * 409, b"\n\n" * 2048, b',"type":"' * 511]
)
def test_a_hostile_tail_says_nothing(tail: bytes) -> None:
    for api in STREAMS:
        assert stream_ending(api, tail + b"\n\n") == "truncated"
    assert usage_of(tail, tail) is None


@given(
    st.sampled_from([chat, completion]),
    st.sampled_from(TRAPS),
    st.booleans(),
    st.integers(20, 900),
    st.sampled_from([b"", b"error", b'{"error":{}}', b"finish_reason"]),
)
def test_what_ends_as_usual_is_judged_as_by_a_close_look(make, text, usage, kept, word):
    whole = make(text, usage=usage)
    if word:
        whole = (
            whole.removesuffix(DONE)
            + encode_event('{"x":1,"y":' + repr(word.decode()) + "}")
            + DONE
        )
    tail = whole[-kept:]
    # lines that end otherwise mean the same, and are never taken for usual
    assert stream_ending("chat", tail) == stream_ending("chat", tail.replace(b"\n", b"\r\n"))
