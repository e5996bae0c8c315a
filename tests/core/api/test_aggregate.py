from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.api import anthropic, openai, responses
from enginery.api.aggregate import Fold, engine_error, streaming_fields
from enginery.api.endings import Api
from enginery.api.sse import DONE, SSEDecoder, SSEEvent, encode_event
from enginery.errors import BadEngineReply, EngineError, EngineEvicted

WHO: Any = {"id": "x-1", "created": 1_700_000_000, "model": "m"}
PIECES = ["Hé", "llo, ", '"you"\n']


def data(value: Any) -> bytes:
    return encode_event(json.dumps(value))


def fold(api: Api, raw: bytes) -> dict[str, Any]:
    folding = Fold(api)
    for event in SSEDecoder().feed(raw):
        folding.feed(event)
    return folding.finish()


def chunk(delta: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return {**openai.chat_chunk(**WHO), "choices": [{**choice, **more}]}


def chat(*chunks: dict[str, Any]) -> bytes:
    return b"".join(map(data, chunks)) + DONE


ENDED = chunk({}, finish_reason="stop")


# -- one stream of each API, and what it folds to --------------------------------------------------


def chat_stream() -> tuple[bytes, Any]:
    said = [chunk({"content": piece}) for piece in PIECES]
    counts = openai.usage(3, 2)
    cost = openai.chat_chunk(**WHO, usage=counts)
    whole = openai.chat_completion(
        **WHO, content="".join(PIECES), finish_reason="stop", usage=counts
    )
    del whole["choices"][0]["logprobs"]
    return chat(chunk({"role": "assistant", "content": ""}), *said, ENDED, cost), whole


def completion_stream() -> tuple[bytes, Any]:
    said = [openai.text_chunk(**WHO, text=piece) for piece in PIECES]
    ended = openai.text_chunk(**WHO, text="", finish_reason="length", usage=openai.usage(3, 2))
    whole = openai.text_completion(
        **WHO, text="".join(PIECES), finish_reason="length", usage=openai.usage(3, 2)
    )
    return chat(*said, ended), whole


def response_stream() -> tuple[bytes, Any]:
    events = responses.Events()
    who: Any = {"id": "resp_1", "created_at": 1, "model": "m"}
    item = responses.message("msg_1", "".join(PIECES), "completed")
    whole = responses.response(
        **who, status="completed", output=[item], usage=responses.usage(3, 2)
    )
    told = [
        *events.begun(responses.response(**who, status="in_progress")),
        *(events.text_delta(0, "msg_1", piece) for piece in PIECES),
        events.ended(whole),
    ]
    return b"".join(map(responses.encode, told)), whole


def message_stream() -> tuple[bytes, Any]:
    who: Any = {"id": "msg_1", "model": "m"}
    begun = anthropic.message(
        **who, content=(), stop_reason=None, usage=anthropic.usage(3, 0, cached_tokens=1)
    )
    told = [
        anthropic.message_start(begun),
        anthropic.block_start(0, anthropic.text_block("")),
        *(anthropic.text_delta(0, piece) for piece in PIECES),
        anthropic.block_stop(0),
        anthropic.block_start(1, {"type": "tool_use", "id": "t", "name": "flip", "input": {}}),
        anthropic.input_delta(1, '{"a": '),
        anthropic.input_delta(1, "true}"),
        anthropic.block_stop(1),
        anthropic.message_delta("tool_use", {"output_tokens": 2, "input_tokens": None}),
        anthropic.message_stop(),
    ]
    content = [
        anthropic.text_block("".join(PIECES)),
        anthropic.tool_use_block("t", "flip", {"a": True}),
    ]
    whole = anthropic.message(
        **who,
        content=content,
        stop_reason="tool_use",
        usage=anthropic.usage(3, 2, cached_tokens=1),
    )
    return b"".join(map(anthropic.encode, told)), whole


STREAMS: dict[Api, tuple[bytes, Any]] = {
    "chat": chat_stream(),
    "completions": completion_stream(),
    "responses": response_stream(),
    "messages": message_stream(),
}
APIS = pytest.mark.parametrize("api", STREAMS)


@APIS
def test_a_stream_folds_to_the_whole_reply(api: Api) -> None:
    raw, whole = STREAMS[api]
    assert fold(api, raw) == whole


@APIS
@settings(max_examples=50)
@given(choose=st.data())
def test_any_partition_of_the_bytes_folds_to_the_same(api: Api, choose: st.DataObject) -> None:
    raw, whole = STREAMS[api]
    cuts = choose.draw(st.sets(st.integers(0, len(raw)), max_size=12))
    decoder, folding = SSEDecoder(), Fold(api)
    for start, end in pairwise([0, *sorted(cuts), len(raw)]):
        for event in decoder.feed(raw[start:end]):
            folding.feed(event)
    assert folding.finish() == whole


@APIS
def test_a_part_of_a_stream_is_no_reply(api: Api) -> None:
    raw, _ = STREAMS[api]
    for end in range(len(raw)):
        with pytest.raises(BadEngineReply, match="middle of the reply"):
            fold(api, raw[:end])


@APIS
def test_comments_pings_and_events_nobody_knows_change_nothing(api: Api) -> None:
    raw, whole = STREAMS[api]
    extra = b": keep-alive\n\n"
    if api in {"responses", "messages"}:
        extra += b'event: ping\ndata: {"type":"ping"}\n\ndata: {"type":"response.new"}\n\n'
    assert fold(api, extra + raw) == whole
    assert fold(api, raw + extra) == whole


# -- chats -----------------------------------------------------------------------------------------


def test_a_tool_call_is_put_together_and_loses_its_index() -> None:
    pieces: list[Any] = [
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}},
        {"index": 0, "function": {"arguments": '"a": 1}'}},
        {"index": 1, "id": None, "type": None, "function": {"name": None, "arguments": "{}"}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
    ]
    chunks = [chunk({"tool_calls": [piece]}) for piece in pieces]
    reply = fold("chat", chat(*chunks, chunk({}, finish_reason="tool_calls")))
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            openai.tool_call("a", "f", '{"a": 1}'),
            openai.tool_call("b", "g", "{}"),
        ],
    }


def test_choices_come_in_any_order_and_are_sorted() -> None:
    chunks = [
        chunk({"content": "b"}, index=1),
        chunk({"content": "a"}),
        chunk({}, index=1, finish_reason="length"),
        chunk({"content": "A"}),
        ENDED,
    ]
    choices = fold("chat", chat(*chunks))["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "aA", "stop"),
        (1, "b", "length"),
    ]


def test_logprobs_grow_in_each_style() -> None:
    new = [chunk({"content": "a"}, logprobs={"content": [{"token": x}]}) for x in "ab"]
    reply = fold("chat", chat(*new, ENDED))
    assert reply["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}
    old = [openai.text_chunk(**WHO, text=x) for x in "ab"]
    for at, each in enumerate(old):
        each["choices"][0]["logprobs"] = {"tokens": [at], "text_offset": [at], "top_logprobs": None}
    reply = fold("completions", chat(*old, openai.text_chunk(**WHO, text="", finish_reason="stop")))
    assert reply["choices"][0]["logprobs"] == {
        "tokens": [0, 1],
        "text_offset": [0, 1],
        "top_logprobs": None,
    }


def test_reasoning_and_refusals_grow_beside_the_content() -> None:
    deltas = [{"reasoning_content": "so "}, {"reasoning_content": "be it"}, {"refusal": "no"}]
    message = fold("chat", chat(*map(chunk, deltas), ENDED))["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "so be it",
        "refusal": "no",
    }


def test_fields_that_nobody_knows_survive_at_every_level() -> None:
    first = chunk({"content": "a", "audio": {"id": "x", "data": "AA"}}, stop_reason=None)
    then = chunk({"audio": {"data": "BB"}}, stop_reason=7, token_ids=[1])
    last = chunk({}, finish_reason="stop", token_ids=[2])
    reply = fold(
        "chat", chat(first, then, {**last, "timings": {"n": 1}, "system_fingerprint": "b"})
    )
    assert reply["choices"][0]["message"]["audio"] == {"id": "x", "data": "AABB"}
    assert reply["choices"][0]["stop_reason"] == 7
    assert reply["choices"][0]["token_ids"] == [1, 2]
    assert (reply["timings"], reply["system_fingerprint"]) == ({"n": 1}, "b")


def test_of_costs_for_each_choice_the_first_choices_is_kept_and_a_single_one_is_the_replys() -> (
    None
):
    def cost(tokens: int) -> dict[str, Any]:
        return openai.chat_chunk(**WHO, usage=openai.usage(3, tokens)) | {"timings": tokens}

    ended = [chunk({"content": ""}, index=index, finish_reason="stop") for index in (0, 1)]
    both = chat(ended[1], cost(11), ended[0], cost(10))
    assert fold("chat", both)["usage"]["completion_tokens"] == 10
    assert fold("chat", both)["timings"] == 10
    first = chat(ended[0], cost(10), ended[1], cost(11))
    assert fold("chat", first)["usage"]["completion_tokens"] == 10
    assert fold("chat", chat(*ended, cost(21)))["usage"]["completion_tokens"] == 21


def test_a_choice_without_an_end_is_a_part_even_after_done() -> None:
    with pytest.raises(BadEngineReply, match="middle of the reply"):
        fold("chat", chat(chunk({"content": "a"}, index=1), ENDED))
    with pytest.raises(BadEngineReply, match="middle of the reply"):
        fold("chat", DONE)


def test_a_prompt_that_waits_is_skipped() -> None:
    raw, whole = STREAMS["completions"]
    assert fold("completions", b"data: null\n\n" + raw) == whole


# -- messages and responses ------------------------------------------------------------------------


def test_thoughts_signatures_and_citations_grow_in_their_blocks() -> None:
    begun = anthropic.message(id="m", model="m", content=(), stop_reason=None, usage={})

    def more(index: int, delta: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": delta}

    told = [
        anthropic.message_start(begun),
        anthropic.block_start(1, {"type": "text", "text": "", "citations": None}),
        anthropic.block_start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        more(0, {"type": "thinking_delta", "thinking": "so "}),
        more(0, {"type": "thinking_delta", "thinking": "be it"}),
        more(0, {"type": "signature_delta", "signature": "sig"}),
        anthropic.text_delta(1, "Hi"),
        more(1, {"type": "citations_delta", "citation": {"at": 1}}),
        more(1, {"type": "citations_delta", "citation": {"at": 2}}),
        anthropic.message_delta("end_turn", {"output_tokens": 1}),
        anthropic.message_stop(),
    ]
    assert fold("messages", b"".join(map(anthropic.encode, told)))["content"] == [
        {"type": "thinking", "thinking": "so be it", "signature": "sig"},
        {"type": "text", "text": "Hi", "citations": [{"at": 1}, {"at": 2}]},
    ]


@pytest.mark.parametrize(("told", "read"), [("", {}), ('{"a": tr', {}), ('{"a": 1}', {"a": 1})])
def test_a_tools_input_is_read_when_it_is_whole(told: str, read: Any) -> None:
    begun = anthropic.message(id="m", model="m", content=(), stop_reason=None, usage={})
    events = [
        anthropic.message_start(begun),
        anthropic.block_start(0, {"type": "tool_use", "id": "t", "name": "f"}),
        anthropic.input_delta(0, told),
        anthropic.message_delta("max_tokens", {}),
        anthropic.message_stop(),
    ]
    raw = b"".join(map(anthropic.encode, events))
    assert fold("messages", raw)["content"] == [anthropic.tool_use_block("t", "f", read)]


def test_an_incomplete_response_is_a_reply_of_its_own() -> None:
    whole = responses.response(id="r", created_at=1, model="m", status="incomplete")
    assert fold("responses", responses.encode(responses.Events().ended(whole))) == whole


def test_what_llama_cpp_leaves_out_of_a_streamed_response_is_put_in() -> None:
    told = {"status": "completed", "created_at": 5, "output": [{"type": "reasoning"}]}
    reply = fold("responses", data({"type": "response.completed", "response": told}))
    assert reply["completed_at"] == 5
    assert reply["output"] == [{"type": "reasoning", "status": "completed"}]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "status", "message"),
    [
        (b'data: {"error":{"code":500,"message":"full","type":"server_error"}}', 500, "full"),
        (b'data: {"error":{"code":400,"message":"long","type":"exceed_x"}}', 400, "long"),
        (b'event: error\ndata: {"code":503,"message":"full","type":"server_error"}', 503, "full"),
        (
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}',
            529,
            "o",
        ),
        (b'data: {"type":"error","code":"server_error","message":"m","param":null}', 500, "m"),
        (b'data: {"error":"words"}', 502, "words"),
        (b'data: {"error":{}}', 502, "error"),
    ],
)
@APIS
def test_an_error_in_a_stream_is_raised_with_its_status(
    api: Api, frame: bytes, status: int, message: str
) -> None:
    folding = Fold(api)
    (event,) = SSEDecoder().feed(frame + b"\n\n")
    with pytest.raises(EngineError, match=message) as caught:
        folding.feed(event)
    assert caught.value.status == status
    assert folding.error_body is not None
    assert "error" in json.loads(folding.error_body)


@APIS
def test_our_own_error_frame_is_carried_through(api: Api) -> None:
    (frame, *_) = SSEDecoder().feed(openai.stream_error(EngineEvicted("made room")))
    with pytest.raises(EngineError, match="made room") as caught:
        Fold(api).feed(frame)
    assert caught.value.code == "engine_evicted"


def test_an_error_without_a_known_status_is_a_bad_gateway() -> None:
    made = engine_error({"message": "m", "type": "who_knows", "code": 1234})
    assert (made.status, made.code, made.type) == (502, "engine_error", "who_knows")


@APIS
@pytest.mark.parametrize(
    "said", ["{", "[]", "7", '"x"', "{}", '{"choices": 3}', '{"choices": [3]}']
)
def test_what_is_no_part_of_a_reply_is_refused(api: Api, said: str) -> None:
    with pytest.raises(BadEngineReply, match="engine's stream holds"):
        Fold(api).feed(SSEEvent(said))


NAMES = [
    *("choices", "index", "delta", "tool_calls", "function", "type", "message", "content_block"),
    *("usage", "response", "logprobs", "text", "content", "output", "status", "partial_json"),
]
KINDS = [
    *("message_start", "content_block_start", "content_block_delta", "message_delta"),
    *("message_stop", "response.completed", "input_json_delta", "tool_use", "completed"),
]
ANYTHING = st.recursive(
    st.none() | st.integers(0, 1) | st.sampled_from(KINDS) | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=12,
)


@APIS
@settings(max_examples=200)
@given(
    st.lists(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4), max_size=4),
    st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
)
def test_no_chunks_make_it_fail_in_another_way(api: Api, said: Any, kinds: list[str]) -> None:
    folding = Fold(api)
    with suppress(EngineError):
        for part, kind in zip(said, kinds, strict=False):
            folding.add({"type": kind, **part} if api in {"responses", "messages"} else part)
        folding.feed(SSEEvent("[DONE]"))
        folding.finish()


def test_a_reply_of_wrong_parts_is_refused_at_the_end() -> None:
    folding = Fold("responses")
    folding.add({"type": "response.completed", "response": {"status": "completed", "output": [3]}})
    with pytest.raises(BadEngineReply, match="no reply"):
        folding.finish()


def test_replies_that_are_not_streamed_are_not_folded() -> None:
    with pytest.raises(ValueError, match="not folded"):
        Fold("other")


# -- requests --------------------------------------------------------------------------------------


def test_a_request_gets_what_folding_needs() -> None:
    wanted = {"stream": True, "stream_options": {"include_usage": True}}
    assert streaming_fields("chat", {}) == wanted
    assert streaming_fields("completions", {"stream_options": None}) == wanted
    assert streaming_fields("responses", {}) == streaming_fields("messages", {}) == {"stream": True}
    kept = streaming_fields("chat", {"stream_options": {"x": 1, "include_usage": False}})
    assert kept["stream_options"] == {"x": 1, "include_usage": True}
