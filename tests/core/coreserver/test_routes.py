"""A core server answers as OpenAI does: the official client reads its replies, its streams and its errors."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import Any

import openai
import pytest

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def chat(server, **more: Any) -> Any:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 8, **more}
    return server.client().chat.completions.create(**asked)


def test_a_stream_says_what_the_whole_reply_says(server) -> None:
    whole = chat(server)
    chunks = list(chat(server, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content != ""
    assert len([piece for piece in pieces if piece]) <= 8  # a busy machine gives some together
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 0


def test_completions_take_a_text_and_token_ids(server) -> None:
    ask = server.client().completions.create
    text = ask(model="tiny", prompt="Hello")
    ids = ask(model="tiny", prompt=list(b"Hello"))
    assert text.choices[0].text == ids.choices[0].text
    assert text.usage.completion_tokens == 16
    stream = ask(model="tiny", prompt="Hello", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text


def test_a_stop_string_ends_the_reply_before_it(server) -> None:
    text = chat(server).choices[0].message.content
    stop = text.split()[3]
    cut = chat(server, stop=[stop])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == text[: text.index(stop)]


def test_token_ids_come_where_they_are_asked_for(server) -> None:
    asked = {"return_token_ids": True}
    whole = chat(server, extra_body=asked).choices[0]
    chunks = [chunk.choices[0] for chunk in chat(server, stream=True, extra_body=asked)]
    ids = [token for choice in chunks for token in getattr(choice, "token_ids", None) or ()]
    assert ids == whole.token_ids
    _, back, _ = server.ask("POST", "/detokenize", {"tokens": ids})
    assert back == {"prompt": whole.message.content}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": "yes"}, "stream"),
        ({"return_token_ids": 1}, "return_token_ids"),
        ({"cache_salt": 1}, "cache_salt"),
    ],
)
def test_what_it_cannot_do_is_a_400_that_names_the_field(body, param, server) -> None:
    status, said, _ = server.ask("POST", "/v1/chat/completions", {"messages": HELLO, **body})
    assert (status, said["error"]["param"]) == (400, param)
    assert said["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("prompt", [None, "", [], ["a", "b"], [["a"]], 7])
def test_a_completion_has_one_prompt(prompt, server) -> None:
    status, said, _ = server.ask("POST", "/v1/completions", {"prompt": prompt})
    assert (status, said["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long_is_refused_before_the_first_byte(stream, server) -> None:
    body = {"prompt": [65] * 1024, "stream": stream}
    status, said, headers = server.ask("POST", "/v1/completions", body)
    assert (status, said["error"]["code"]) == (400, "context_length_exceeded")
    assert headers["Content-Type"].startswith("application/json")


def test_a_token_outside_the_vocabulary_is_the_cores_own_refusal(server) -> None:
    with pytest.raises(openai.BadRequestError, match="ids are below"):
        server.client().completions.create(model="tiny", prompt=[1, 60_000], stream=True)


def test_another_model_another_path_another_method(server) -> None:
    with pytest.raises(openai.NotFoundError, match="'tiny', not 'other'"):
        chat(server, model="other")
    assert server.ask("POST", "/v1/embeddings", {})[0] == 404
    assert server.ask("GET", "/v1/completions")[0] == 405
    assert server.ask("POST", "/v1/completions", "text")[0] == 400


def test_only_health_is_told_without_the_key(server) -> None:
    paths = [
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/v1/completions"),
        ("POST", "/sleep"),
    ]
    for method, path in paths:
        status, said, _ = server.ask(method, path, {}, key="wrong")
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
    status, said, headers = server.ask("GET", "/health", key=None)
    assert (status, said["status"]) == (200, "ok")
    assert headers["Server"] == "enginery-coreserver"


def test_the_model_its_tokens_and_its_numbers_are_told(server) -> None:
    _, models, _ = server.ask("GET", "/v1/models")
    (card,) = models["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny", 1024)
    body = {"prompt": "ab", "return_token_strs": True}
    assert server.ask("POST", "/tokenize", body)[1] == {
        "count": 2,
        "max_model_len": 1024,
        "tokens": [97, 98],
        "token_strs": ["a", "b"],
    }
    _, counted, _ = server.ask("POST", "/tokenize", {"messages": HELLO})
    assert counted["count"] == chat(server).usage.prompt_tokens
    assert server.ask("POST", "/tokenize", {})[0] == 400
    assert server.ask("POST", "/detokenize", {"tokens": [10**6]})[0] == 400
    assert server.metric("steps") > 0


def test_a_client_of_http_1_0_gets_its_stream_without_chunks(server) -> None:
    with closing(
        http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    ) as link:
        link._http_vsn, link._http_vsn_str = 10, "HTTP/1.0"
        body = json.dumps({"prompt": "Hello", "stream": True})
        link.request("POST", "/v1/completions", body, {"x-api-key": "a-key-of-this-spawn"})
        lines = link.getresponse().read().decode().split("\n\n")
    assert lines[-2] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines[:-1])
