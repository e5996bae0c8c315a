"""The real llama.cpp, started by `build_command`'s own argv: what the plugin promises holds."""

from __future__ import annotations

import contextlib
import json

import pytest

from enginery import ContextLengthExceeded, EngineRequest
from enginery_llamacpp import LlamaCppPlugin
from enginery_llamacpp.errors import parse_error
from enginery_llamacpp.tokens import count_tokens, estimate_tokens
from enginery_llamacpp.validation import CHAT, COMPLETIONS, EMBEDDINGS

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
ENDLESS = HI | {"max_tokens": -1}


def test_it_says_what_the_variant_says(chat) -> None:
    row = chat.request("/v1/models").json()["data"][0]
    assert row["id"] == chat.variant.model
    assert row["meta"]["n_ctx"] == chat.variant.context_length
    assert len(chat.request("/slots").json()) == chat.variant.parallel


def test_without_a_context_length_each_request_gets_the_models_own(start) -> None:
    with start("tiny-chat", parallel=2, context_length=None) as server:
        assert [slot["n_ctx"] for slot in server.request("/slots").json()] == [32_768] * 2


def test_only_the_key_of_this_spawn_opens_it(chat) -> None:
    assert chat.request("/v1/models", key=None).status == 401
    refused = chat.request("/v1/models", key="another")
    assert refused.status == 401
    assert parse_error(401, refused.body) is not None
    assert chat.request("/health", key=None).status == 200


def test_it_chats(chat) -> None:
    reply = chat.request(CHAT, HI).json()
    assert reply["model"] == chat.variant.model
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 8


def test_it_streams(chat) -> None:
    events = chat.events(CHAT, HI | {"stream": True, "stream_options": {"include_usage": True}})
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text
    assert chunks[-1]["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
def test_an_overflow_is_recognised_with_both_numbers(chat, stream) -> None:
    body = {"messages": [{"role": "user", "content": "0 " * 3000}], "stream": stream}
    reply = chat.request(CHAT, body)
    error = parse_error(reply.status, reply.body)
    assert isinstance(error, ContextLengthExceeded)
    assert error.context_length == 1024
    assert error.prompt_tokens is not None
    assert 3000 < error.prompt_tokens <= (estimate_tokens(EngineRequest(CHAT, body)).high or 0)


def test_prompt_and_reply_share_the_context(chat) -> None:
    usage = chat.request(COMPLETIONS, {"prompt": "hi", "max_tokens": -1, "ignore_eos": True}).json()
    assert usage["usage"]["total_tokens"] == chat.variant.context_length
    assert usage["choices"][0]["finish_reason"] == "length"


def test_every_route_that_it_claims_exists(chat) -> None:
    claimed = LlamaCppPlugin().get_supported_endpoints(chat.variant)
    for path in claimed:
        body = None if path == "/v1/models" else {}
        assert chat.request(path, body).status != 404, path


def test_routes_that_it_does_not_claim_are_not_served(chat) -> None:
    claimed = LlamaCppPlugin().get_supported_endpoints(chat.variant)
    for path in (EMBEDDINGS, "/v1/rerank"):
        assert path not in claimed
        reply = chat.request(path, {"input": "x"})
        assert reply.status == 501
        assert parse_error(501, reply.body) is not None


async def test_embeddings_are_counted_exactly(start) -> None:
    with start("tiny-chat-bos", embedding=True, extra_args=["--pooling", "mean"]) as server:
        for text in ("", "hi", "0 🧭 <|im_end|>"):
            asked = EngineRequest(EMBEDDINGS, {"input": text})
            used = server.request(EMBEDDINGS, asked.body).json()["usage"]["prompt_tokens"]
            assert await count_tokens(asked, server.running()) == used
        too_long = server.request(EMBEDDINGS, {"input": "0 " * 3000})
        assert isinstance(parse_error(too_long.status, too_long.body), ContextLengthExceeded)


def test_the_demo_model_recites_and_stops(start_server) -> None:
    variant = LlamaCppPlugin().demo_variant()
    settings = {"context_length": variant["context_length"], "parallel": variant["parallel"]}
    with start_server(variant["options"]["model"], **settings) as server:
        asked = {"messages": [{"role": "user", "content": "List objects are"}], "temperature": 0}
        choice = server.request(CHAT, asked).json()["choices"][0]
        assert choice["message"]["content"].startswith("Lists are mutable sequences")
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_it_leaves_by_its_stop_plan_with_a_request_in_flight(start, stream) -> None:
    # 32,768 tokens take longer than this test.
    with start("tiny-chat", context_length=None) as server:
        connection = server.connect()
        body = json.dumps(ENDLESS | {"stream": stream})
        connection.request(
            "POST", CHAT, body, {"Authorization": f"Bearer {server.endpoint.api_key}"}
        )
        while not server.request("/slots").json()[0]["is_processing"]:
            assert server.process.poll() is None
        assert server.stop() == 0
        connection.close()


def test_it_leaves_at_once_when_idle(start) -> None:
    with start("tiny-chat") as server:
        assert server.stop() == 0


def test_as_many_requests_run_at_once_as_the_variant_says(start) -> None:
    with (
        start("tiny-chat", parallel=2, context_length=None) as server,
        contextlib.ExitStack() as open_,
    ):
        for _ in range(2):
            connection = open_.enter_context(contextlib.closing(server.connect()))
            headers = {"Authorization": f"Bearer {server.endpoint.api_key}"}
            connection.request("POST", CHAT, json.dumps(ENDLESS | {"stream": True}), headers)
            assert connection.getresponse().status == 200  # comes with the first token
        assert [slot["is_processing"] for slot in server.request("/slots").json()] == [True, True]
