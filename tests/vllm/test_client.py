"""`VllmEngine`: a client by URL, on a server that looks like vLLM."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from enginery import EndpointNotSupported, InvalidRequest
from enginery_vllm import VllmEngine
from enginery_vllm.requests import CHAT, EMBEDDINGS

BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server():
    """Says what it was asked; its key is `key`."""

    async def health(_: web.Request) -> web.Response:
        return web.Response()

    async def tokenize(request: web.Request) -> web.Response:
        assert (await request.json())["model"] == "tiny"
        return web.json_response({"count": 11})

    async def chat(request: web.Request) -> web.Response:
        key = request.headers.get("Authorization")
        return web.json_response({"key": key, "body": await request.json()})

    app = web.Application()
    app.router.add_get("/health", health)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post(CHAT, chat)
    async with TestServer(app) as running:
        yield running


@pytest.fixture
async def engine(server):
    url = f"http://{server.host}:{server.port}"
    async with VllmEngine(url, model="tiny", api_key="key", context_length=100) as client:
        yield client


async def test_it_forwards_a_chat_with_its_key_and_in_vllms_words(engine) -> None:
    body = {**BODY, "n_predict": 3, "guided_choice": ["a"]}
    async with (
        engine.open_session() as session,
        await engine.forward_request(session, CHAT, body) as response,
    ):
        said = await response.json()
    assert said["key"] == "Bearer key"
    assert said["body"] == {
        **BODY,
        "model": "tiny",
        "max_tokens": 3,
        "structured_outputs": {"choice": ["a"]},
    }


async def test_it_counts_with_the_servers_tokenizer_and_adds_the_reply(engine) -> None:
    assert await engine.estimate_tokens({**BODY, "max_tokens": 2}) == 13


async def test_a_reply_without_a_limit_gets_one_that_vllm_takes(engine) -> None:
    assert engine.transform_request(BODY)["max_tokens"] == 100
    assert "max_tokens" not in engine.transform_request({**BODY, "max_completion_tokens": 3})
    assert "max_tokens" not in engine.transform_request({"input": "x"})
    async with VllmEngine(engine.base_url, model="tiny") as unknown:
        assert unknown.transform_request(BODY)["max_tokens"] == 512
    async with VllmEngine(engine.base_url, model="tiny", max_tokens=None) as unlimited:
        assert "max_tokens" not in unlimited.transform_request(BODY)


async def test_a_request_that_contradicts_itself_is_refused(engine) -> None:
    with pytest.raises(InvalidRequest):
        engine.transform_request({**BODY, "n_predict": 1, "max_tokens": 2})


async def test_health_is_true_here_and_false_elsewhere(engine, server) -> None:
    assert await engine.check_health()
    assert (await engine.health()).state == "ready"
    await server.close()
    assert not await engine.check_health()


async def test_options_say_what_the_server_serves(engine) -> None:
    assert CHAT in engine.get_supported_endpoints()
    async with VllmEngine(engine.base_url, model="tiny", runner="pooling") as pooling:
        assert EMBEDDINGS in pooling.get_supported_endpoints()
        async with pooling.open_session() as session:
            with pytest.raises(EndpointNotSupported):
                await pooling.forward_request(session, "", BODY)
    with pytest.raises(ValidationError):
        VllmEngine(engine.base_url, model="tiny", modle="x")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://x?y", "http://"])
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(ValueError, match="no address"):
        VllmEngine(url, model="tiny")
