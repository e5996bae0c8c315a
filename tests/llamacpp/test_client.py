"""`LlamaCppEngine`: a client by URL, on a running server."""

from __future__ import annotations

import aiohttp
import pytest

from enginery import EndpointNotSupported, InvalidRequest
from enginery_llamacpp import LlamaCppEngine
from enginery_llamacpp.validation import CHAT

CHAT_BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture
async def engine(chat):
    async with LlamaCppEngine(chat.endpoint.base_url, api_key=chat.endpoint.api_key) as client:
        yield client


async def test_it_forwards_a_chat(engine) -> None:
    async with (
        aiohttp.ClientSession() as session,
        await engine.forward_request(session, CHAT, CHAT_BODY) as response,
    ):
        reply = await response.json()
    assert reply["usage"]["completion_tokens"] == 2
    assert engine.transform_response(reply, CHAT_BODY) == reply


async def test_it_counts_with_the_servers_tokenizer_and_adds_the_reply(engine, chat) -> None:
    used = chat.request(CHAT, CHAT_BODY).json()["usage"]["prompt_tokens"]
    assert await engine.estimate_tokens(CHAT_BODY) == used + 2


async def test_a_reply_without_a_limit_gets_one(engine, chat) -> None:
    messages = CHAT_BODY["messages"]
    assert engine.transform_request({"messages": messages})["max_tokens"] == 512
    kept = engine.transform_request({"messages": messages, "max_completion_tokens": 3})
    assert "max_tokens" not in kept
    assert "max_tokens" not in engine.transform_request({"input": "x"})
    async with LlamaCppEngine(chat.endpoint.base_url, max_tokens=None) as unlimited:
        assert "max_tokens" not in unlimited.transform_request({"messages": messages})


async def test_unsupported_fields_are_removed_and_bad_requests_refused(engine) -> None:
    assert "user" not in engine.transform_request({**CHAT_BODY, "user": "x"})
    with pytest.raises(InvalidRequest):
        engine.transform_request({"messages": []})


async def test_health_is_true_here_and_false_elsewhere(engine) -> None:
    assert await engine.check_health()
    assert not await engine.check_health("http://127.0.0.1:9", timeout=1.0)


async def test_options_say_what_the_server_serves(engine, chat) -> None:
    assert CHAT in engine.get_supported_endpoints()
    async with LlamaCppEngine(chat.endpoint.base_url, embedding=True) as embedder:
        assert "/v1/embeddings" in embedder.get_supported_endpoints()
        async with aiohttp.ClientSession() as session:
            with pytest.raises(EndpointNotSupported):
                await embedder.forward_request(session, "", CHAT_BODY)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://x?y", "http://"])
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(ValueError, match="no address"):
        LlamaCppEngine(url)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="gpu_layer"):
        LlamaCppEngine("http://127.0.0.1:1", gpu_layer=1)
