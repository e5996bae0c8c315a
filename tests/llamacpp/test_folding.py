"""A stream of the real llama.cpp, folded, is its own whole reply: field by field."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginery.api.aggregate import Fold, streaming_fields
from enginery.api.endings import api_of, stream_ending, usage_of, usage_of_counts
from enginery.api.sse import SSEDecoder
from enginery.errors import BadEngineReply, EngineError
from enginery_llamacpp.validation import CHAT, COMPLETIONS, MESSAGES, RESPONSES

HI = [{"role": "user", "content": "hi"}]
SAME = {"temperature": 0, "seed": 1, "cache_prompt": False, "ignore_eos": True}
UNLIKE = {"id", "call_id", "created", "created_at", "completed_at"}
TIMES = {"prompt_ms", "prompt_per_token_ms", "prompt_per_second"}
TIMES |= {"predicted_ms", "predicted_per_token_ms", "predicted_per_second"}

BOOLEAN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "flip", "parameters": BOOLEAN}}
# Random weights never begin a call by themselves; this begins it for them, and ends as the call ends.
CALL = {"role": "assistant", "content": "<tool_call>\n"}
CALLING = {"ignore_eos": False, "tool_choice": "required", "max_tokens": 120}
THINKING_TEMPLATE = """\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n' }}
{%- endif %}{{ message.content }}{{- '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if always_think %}{{ '<think>\\n' }}{% endif %}{%- endif %}"""
THOUGHTS = {"grammar": 'root ::= "<think>\\nwhy not</think>\\n\\nhello you"', "ignore_eos": False}


@pytest.fixture(scope="module")
def single(start) -> Iterator[Any]:
    """One slot: what a request finds in the cache depends on nobody else."""
    with start("tiny-chat") as server:
        yield server


@pytest.fixture(scope="module")
def thinking(start, tmp_path_factory) -> Iterator[Any]:
    template = Path(tmp_path_factory.mktemp("template")) / "thinking.jinja"
    template.write_text(THINKING_TEMPLATE)
    extra = ["--chat-template-file", str(template)]
    with start("tiny-chat", extra_args=extra) as server:
        yield server


def alike(value: Any) -> Any:
    """Without what differs between two whole replies too: ids, times of day, durations."""
    if isinstance(value, dict):
        return {
            name: None if name in UNLIKE | TIMES else alike(inner) for name, inner in value.items()
        }
    return [alike(inner) for inner in value] if isinstance(value, list) else value


def streamed(server: Any, path: str, body: dict[str, Any]) -> bytes:
    reply = server.request(path, {**body, **streaming_fields(api_of(path), body)})
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    return reply.body


def fold(path: str, raw: bytes) -> dict[str, Any]:
    fold = Fold(api_of(path))
    for event in SSEDecoder().feed(raw):
        fold.feed(event)
    return fold.finish()


def check(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    body = {**SAME, **body}
    server.request(path, body)  # what the others leave in the cache is counted by messages
    whole = server.request(path, body)
    assert whole.status == 200, whole.body
    raw = streamed(server, path, body)
    folded = fold(path, raw)
    assert alike(folded) == alike(whole.json())
    assert stream_ending(api_of(path), raw[-4096:]) == "complete"
    assert usage_of(raw[-4096:], raw[:4096]) == usage_of_counts(folded["usage"])
    assert usage_of(whole.body[-4096:]) == usage_of_counts(folded["usage"])
    return folded


CHATS = {
    "plain": {"max_tokens": 12},
    "nothing said": {"max_tokens": 5, "stop": [""]},
    "a stop string": {"max_tokens": 12, "stop": [" either"]},
    "logprobs": {"max_tokens": 6, "logprobs": True, "top_logprobs": 3},
    "logprobs and a stop string": {"max_tokens": 9, "logprobs": True, "stop": [" either"]},
    "json": {
        "response_format": {"type": "json_schema", "json_schema": {"schema": BOOLEAN}},
        "ignore_eos": False,
        "max_tokens": 90,
    },
    "timings and progress": {"max_tokens": 3, "timings_per_token": True, "return_progress": True},
    "a tool": {"messages": [*HI, CALL], "tools": [TOOL], **CALLING},
    "text and a tool": {
        "messages": [*HI, {**CALL, "content": "Sure\n<tool_call>\n"}],
        "tools": [TOOL],
        **CALLING,
        "max_tokens": 60,
        "echo": True,
    },
    "a tool cut off": {"messages": [*HI, CALL], "tools": [TOOL], **CALLING, "max_tokens": 28},
    "a reply continued": {
        "messages": [*HI, {"role": "assistant", "content": "Once upon"}],
        "max_tokens": 4,
        "echo": True,
    },
}


@pytest.mark.parametrize("body", CHATS.values(), ids=CHATS)
def test_a_chat_is_folded(single, body) -> None:
    check(single, CHAT, {"messages": HI, **body})


def test_a_tool_call_is_in_the_folded_chat(single) -> None:
    reply = check(single, CHAT, {"messages": [*HI, CALL], "tools": [TOOL], **CALLING})
    call, *_ = reply["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "flip"
    assert call["type"] == "function"
    assert "index" not in call


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_chat_with_two_choices_is_folded(chat, logprobs) -> None:
    body = {"messages": HI, "n": 2, "max_tokens": 5, "logprobs": logprobs}
    assert [choice["index"] for choice in check(chat, CHAT, body)["choices"]] == [0, 1]


@pytest.mark.parametrize("limit", [7, 40])
def test_reasoning_is_folded(thinking, limit) -> None:
    reply = check(thinking, CHAT, {"messages": HI, "max_tokens": limit, **THOUGHTS})
    assert reply["choices"][0]["message"]["reasoning_content"]


COMPLETED = {
    "plain": {"prompt": "hi"},
    "logprobs": {"prompt": "hi", "logprobs": 2},
    "a list of one": {"prompt": ["hi"]},
    "echo, which it ignores": {"prompt": "hi", "echo": True},
    "token ids": {"prompt": [20, 30, 40]},
    "a stop string": {"prompt": "hi", "stop": ["t"]},
}


@pytest.mark.parametrize("body", COMPLETED.values(), ids=COMPLETED)
def test_a_completion_is_folded(single, body) -> None:
    check(single, COMPLETIONS, {"max_tokens": 8, **body})


@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("body", [{"prompt": "hi", "n": 2}, {"prompt": ["hi", "a b c", "you"]}])
def test_a_completion_with_several_choices_is_folded(chat, body, logprobs) -> None:
    check(chat, COMPLETIONS, {"max_tokens": 4, "logprobs": logprobs, **body})


def test_a_response_is_folded(single) -> None:
    check(single, RESPONSES, {"input": "hi", "max_output_tokens": 9})


def test_a_response_longer_than_the_tail_is_folded_and_known_to_be_complete(single) -> None:
    reply = check(single, RESPONSES, {"input": "hi", "max_output_tokens": 1000})
    assert len(reply["output"][0]["content"][0]["text"]) > 4096


def test_a_response_with_a_tool_is_folded(single) -> None:
    said = {"type": "output_text", "text": CALL["content"]}
    begun = {"type": "message", "role": "assistant", "content": [said]}
    tool = {"type": "function", "name": "flip", "parameters": BOOLEAN}
    body = {"input": [*HI, begun], "tools": [tool], **CALLING, "max_output_tokens": 120}
    assert check(single, RESPONSES, body)["output"][0]["type"] == "function_call"


def test_a_response_with_reasoning_is_folded(thinking) -> None:
    reply = check(thinking, RESPONSES, {"input": "hi", "max_output_tokens": 60, **THOUGHTS})
    assert [item["type"] for item in reply["output"]] == ["reasoning", "message"]


SAID = {
    "plain": {"max_tokens": 9},
    "a stop string": {"max_tokens": 12, "stop_sequences": [" either"]},
    "a tool": {"messages": [*HI, CALL], "max_tokens": 90},
    "a tool cut off": {"messages": [*HI, CALL], "max_tokens": 28},
}


@pytest.mark.parametrize("body", SAID.values(), ids=SAID)
def test_a_message_is_folded(single, body) -> None:
    tool = {"name": "flip", "input_schema": BOOLEAN}
    wants = {"tools": [tool], "tool_choice": {"type": "any"}, "ignore_eos": False}
    check(single, MESSAGES, {"messages": HI, **(wants if "messages" in body else {}), **body})


def test_a_message_that_is_all_thinking_is_folded(thinking) -> None:
    body = {"messages": HI, "max_tokens": 9, "chat_template_kwargs": {"always_think": True}}
    assert check(thinking, MESSAGES, body)["content"][0]["type"] == "thinking"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HI, "stream_options": {"include_usage": True}}),
        (COMPLETIONS, {"prompt": "hi"}),
        (RESPONSES, {"input": "hi"}),
        (MESSAGES, {"messages": HI}),
    ],
)
def test_no_part_of_a_stream_passes_for_the_whole(single, path, body) -> None:
    raw = streamed(single, path, {**SAME, "max_tokens": 6, "max_output_tokens": 6, **body})
    for end in range(len(raw)):
        assert stream_ending(api_of(path), raw[:end][-4096:]) == "truncated"
    cuts = [end for end in range(len(raw)) if raw[:end].endswith(b"\n\n")]
    for end in [0, *cuts]:
        with pytest.raises(BadEngineReply, match="middle of the reply"):
            fold(path, raw[:end])


def overfull(server: Any, path: str, body: dict[str, Any]) -> bytes:
    """A stream that broke off because another filled the pool; where they did not meet, once more."""
    for _ in range(30):
        raws: list[bytes] = []
        ready = threading.Barrier(2)

        def ask(ready: threading.Barrier = ready, raws: list[bytes] = raws) -> None:
            ready.wait()
            raws.append(streamed(server, path, body))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for raw in raws:
            if b"Context size has been exceeded" in raw:
                return raw
    raise AssertionError("the two requests never ran at the same time")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HI}),
        (COMPLETIONS, {"prompt": "hi"}),
        (RESPONSES, {"input": "hi"}),
        (MESSAGES, {"messages": HI, "max_tokens": 4000}),
    ],
)
def test_an_error_in_a_stream_is_the_error_of_the_whole_reply(start, path, body) -> None:
    body = {**SAME, **body}
    # One pool for two requests that fit alone: llama.cpp ends both when it is full.
    with start("tiny-chat", parallel=2, extra_args=["-kvu"]) as server:
        raw = overfull(server, path, body)
    assert stream_ending(api_of(path), raw[-4096:]) == "error"
    with pytest.raises(EngineError, match="Context size has been exceeded") as caught:
        fold(path, raw)
    assert caught.value.status == 500
