"""`enginery_llamacpp.streams`: what goes out as a stream, and usage of several choices added up."""

from __future__ import annotations

import json

import pytest

from enginery import EngineRequest, Variant
from enginery_llamacpp import LlamaCppPlugin
from enginery_llamacpp.streams import SummedUsage, prefers_stream, summed_usage
from enginery_llamacpp.validation import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES

USER = {"role": "user", "content": "hi"}
BEGUN = [USER, {"role": "assistant", "content": "Once"}]
VARIANT = Variant("m", engine_type="llama.cpp", parallel=2)
AS_IT_CAME = Variant("m", engine_type="llama.cpp", options={"fold_replies": False})


@pytest.mark.parametrize(
    ("path", "body", "streams"),
    [
        (CHAT, {"messages": [USER]}, True),
        (CHAT, {"messages": BEGUN}, True),
        (COMPLETIONS, {"prompt": "hi"}, True),
        (RESPONSES, {"input": "hi"}, True),
        (MESSAGES, {"messages": [USER]}, True),
        (MESSAGES, {"messages": BEGUN}, False),
        (f"{MESSAGES}/count_tokens", {"messages": [USER]}, False),
        (EMBEDDINGS, {"input": "hi"}, False),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}, False),
        ("/infill", {"input_prefix": "a"}, False),
        ("/tokenize", {"content": "hi"}, False),
    ],
)
def test_what_can_take_long_is_asked_for_as_a_stream(path, body, streams) -> None:
    assert prefers_stream(EngineRequest(path, body), VARIANT) is streams
    assert prefers_stream(EngineRequest(path, body, stream=True), VARIANT) is False
    assert prefers_stream(EngineRequest(path, body), AS_IT_CAME) is False


@pytest.mark.parametrize(
    ("path", "body", "several"),
    [
        (CHAT, {"messages": [USER], "n": 2}, True),
        (CHAT, {"messages": [USER], "n": 1}, False),
        (CHAT, {"messages": [USER], "n": None}, False),
        (CHAT, {"messages": [USER], "n": "2"}, False),
        (COMPLETIONS, {"prompt": "hi", "n": 2}, True),
        (COMPLETIONS, {"prompt": ["hi", "you"]}, True),
        (COMPLETIONS, {"prompt": ["hi"]}, False),
        (COMPLETIONS, {"prompt": [5, 6]}, False),
        (COMPLETIONS, {"prompt": [[5], [6]]}, True),
        (EMBEDDINGS, {"input": ["hi", "you"], "n": 2}, False),
    ],
)
def test_only_several_choices_are_added_up_and_then_always(path, body, several) -> None:
    request = EngineRequest(path, body)
    assert (summed_usage(request) is not None) is several
    assert prefers_stream(request, AS_IT_CAME) is several
    assert (LlamaCppPlugin().transform_response(request) is not None) is several


def test_a_chats_stream_without_usage_is_relayed_as_it_comes() -> None:
    body = {"messages": [USER], "n": 2, "stream": True}
    assert summed_usage(EngineRequest(CHAT, body, stream=True)) is None
    asked = body | {"stream_options": {"include_usage": True}}
    assert summed_usage(EngineRequest(CHAT, asked, stream=True)) is not None


def test_a_stream_that_broke_off_before_any_usage_gets_none() -> None:
    assert SummedUsage(2, wanted=True).end() == []


def test_a_whole_reply_is_left_alone() -> None:
    reply = {"choices": [{}, {}], "usage": {"completion_tokens": 4}}
    assert SummedUsage(2, wanted=True).reply(reply) == reply


def test_a_reply_that_goes_on_from_the_clients_words_repeats_them_when_streamed(chat) -> None:
    body = {"messages": BEGUN, "max_tokens": 2, "ignore_eos": True, "temperature": 0}
    sent = LlamaCppPlugin().transform_request(EngineRequest(CHAT, body), VARIANT)
    assert sent is not None
    whole = chat.request(CHAT, body).json()["choices"][0]["message"]["content"]
    assert whole.startswith("Once")
    assert chat.request(CHAT, sent).json()["choices"][0]["message"]["content"].startswith("Once")
    streamed = _changed(chat.events(CHAT, sent | {"stream": True}), SummedUsage(1, wanted=True))
    texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in streamed]
    assert "".join(texts).startswith("Once")
    asked_to_stream = EngineRequest(CHAT, body | {"stream": True}, stream=True)
    assert LlamaCppPlugin().transform_request(asked_to_stream, VARIANT) is None


# -- the real llama.cpp ------------------------------------------------------------------------


def _changed(events, transform):
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    # "null" comes for a prompt that waits for a slot
    changed = [new for chunk in chunks if chunk is not None for new in transform.chunk(chunk)]
    return changed + transform.end()


def _usage_of_stream(server, path, body):
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    transform = summed_usage(EngineRequest(path, streamed, stream=True))
    assert transform is not None
    chunks = _changed(server.events(path, streamed), transform)
    found = [chunk for chunk in chunks if "usage" in chunk]
    assert found == chunks[-1:]
    assert found[0]["choices"] == []
    assert "timings" not in found[0]
    return found[0]["usage"]


def test_every_choice_of_a_chat_is_counted_and_its_prompt_once(chat) -> None:
    body = {"messages": [USER], "max_tokens": 5, "ignore_eos": True}
    single = chat.request(CHAT, body).json()["usage"]
    usage = _usage_of_stream(chat, CHAT, body | {"n": 2})
    assert usage["completion_tokens"] == 2 * 5
    assert usage["prompt_tokens"] == single["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 10
    # llama.cpp's own whole reply counts one: when it does better, this file can go
    assert chat.request(CHAT, body | {"n": 2}).json()["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("n", [1, 2])
def test_every_prompt_of_a_completion_is_counted_once(chat, n) -> None:
    prompts = ["hi", "one two three", "a longer prompt than the others"]
    body = {"max_tokens": 4, "ignore_eos": True}
    tokens = [
        chat.request(COMPLETIONS, body | {"prompt": prompt}).json()["usage"]["prompt_tokens"]
        for prompt in prompts
    ]
    usage = _usage_of_stream(chat, COMPLETIONS, body | {"prompt": prompts, "n": n})
    assert usage["completion_tokens"] == 4 * n * len(prompts)
    assert usage["prompt_tokens"] == sum(tokens)


def test_without_being_asked_a_completions_stream_says_no_usage_of_single_choices(chat) -> None:
    body = {"prompt": ["hi", "you"], "max_tokens": 3, "stream": True}
    transform = summed_usage(EngineRequest(COMPLETIONS, body, stream=True))
    chunks = _changed(chat.events(COMPLETIONS, body), transform)
    assert len({chunk["choices"][0]["index"] for chunk in chunks}) == 2
    assert not any("usage" in chunk for chunk in chunks)


def test_a_prompt_that_waits_for_a_slot_is_a_null_in_the_stream(chat) -> None:
    """Why our own reader of streams lets a null pass: no client knows what to do with it."""
    body = {"prompt": ["a", "b", "c"], "max_tokens": 3, "stream": True, "ignore_eos": True}
    assert "null" in chat.events(COMPLETIONS, body)
