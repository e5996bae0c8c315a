from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from enginery import ContextLengthExceeded, EngineRequest, Variant
from enginery_mock import MockEngine, MockPlugin
from enginery_mock.flags import API_KEY_VARIABLE

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]
CHAT = "/v1/chat/completions"


def asking(mock: Any, *, key: str = "any") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{mock.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def client(mock: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def slow(mock: Any) -> Iterator[Any]:
    process = type(mock)("--ttft-ms", "100", "--itl-ms", "20").wait_until_ready()
    yield process
    process.kill()


# -- replies ---------------------------------------------------------------------------------------


def test_a_chat_answers_the_official_client(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="any name", messages=HELLO, max_tokens=8)
    assert reply.model == "mock"
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 8)


def test_a_stream_says_the_same_as_a_whole_reply(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="m", messages=HELLO)
    chunks = list(
        client.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in said) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {whole.id}


def test_usage_is_streamed_only_when_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_completions_answer_the_official_async_client(mock: Any) -> None:
    async with asking(mock) as client:
        whole = await client.completions.create(model="m", prompt="Once upon", max_tokens=5)
        stream = await client.completions.create(
            model="m", prompt=["Once upon"], max_tokens=5, stream=True
        )
        said = "".join([chunk.choices[0].text async for chunk in stream])
    assert said == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.total_tokens == 7


def test_the_same_seed_and_prompt_give_the_same_reply_in_another_process(
    mock: Any, start: Any
) -> None:
    other = start().wait_until_ready()
    seeded = start("--seed", "1").wait_until_ready()
    ask = {"model": "m", "messages": HELLO}
    first, again, differently = (m.get(CHAT, ask)[1] for m in (mock, other, seeded))
    first["created"] = again["created"]
    assert first == again
    assert differently["choices"] != first["choices"]


def test_a_reply_ends_before_a_stop_string_streamed_or_not(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="m", messages=HELLO)
    text = whole.choices[0].message.content or ""
    word = text[5:9]
    cut = client.chat.completions.create(model="m", messages=HELLO, stop=word)
    stream = client.chat.completions.create(model="m", messages=HELLO, stop=[word], stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert cut.choices[0].message.content == said == text[: text.find(word)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_reply_is_cut_where_the_context_ends(mock: Any) -> None:
    _, reply = mock.get(CHAT, {"messages": HELLO, "ignore_eos": True})
    assert reply["usage"]["total_tokens"] == 128
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_fills_the_context_is_refused_as_llama_cpp_does(
    mock: Any, stream: bool
) -> None:
    def asked(tokens: int, stream: bool) -> Any:
        messages = [{"role": "user", "content": " word" * (tokens - 7)}]
        return mock.get(CHAT, {"messages": messages, "stream": stream})

    assert asked(127, False)[0] == 200
    status, body = asked(128, stream)
    assert (status, body["error"]["code"]) == (400, 400)
    error = MockPlugin().parse_error(status, json.dumps(body).encode())
    assert isinstance(error, ContextLengthExceeded)
    assert (error.prompt_tokens, error.context_length) == (128, 128)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO}),
        (CHAT, {"messages": [{"role": "system", "content": "Ünïcode — yes\n"}, *HELLO]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a b"}, {}]}]}),
        ("/v1/completions", {"prompt": ""}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
    ],
)
def test_the_plugin_estimates_exactly_what_the_server_counts(
    mock: Any, path: str, body: dict[str, Any]
) -> None:
    status, reply = mock.get(path, body)
    assert status == 200
    estimate = MockPlugin().estimate_tokens(EngineRequest(path, body), Variant("m"))
    assert reply["usage"]["prompt_tokens"] == estimate
    if path == CHAT:
        assert mock.get(f"{CHAT}/input_tokens", body)[1]["input_tokens"] == estimate


def test_tokenize_gives_ids_and_on_request_pieces(mock: Any) -> None:
    assert len(mock.get("/tokenize", {"content": "Hello, world"})[1]["tokens"]) == 3
    _, found = mock.get("/tokenize", {"content": "Hello, world", "with_pieces": True})
    assert [token["piece"] for token in found["tokens"]] == ["Hello", ",", " world"]


def test_models_are_listed_for_the_official_client(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mock"]


# -- refusals --------------------------------------------------------------------------------------


def test_more_than_one_choice_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=HELLO, n=2)
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": ["Hi"]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0]"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_tokens": 1.5}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_completion_tokens": True}, "max_completion_tokens"),
        (CHAT, {"messages": HELLO, "stop": [""]}, "stop"),
        (CHAT, {"messages": HELLO, "stop": 3}, "stop"),
        (CHAT, {"messages": HELLO, "temperature": "hot"}, "temperature"),
        (CHAT, {"messages": HELLO, "temperature": True}, "temperature"),
        (CHAT, {"messages": HELLO, "temperature": -1}, "temperature"),
        (CHAT, {"messages": HELLO, "top_p": "0.9"}, "top_p"),
        (CHAT, {"messages": HELLO, "top_k": 4.5}, "top_k"),
        (CHAT, {"messages": HELLO, "min_p": []}, "min_p"),
        (CHAT, {"messages": HELLO, "presence_penalty": {}}, "presence_penalty"),
        (CHAT, {"messages": HELLO, "frequency_penalty": "none"}, "frequency_penalty"),
        (CHAT, {"messages": HELLO, "repetition_penalty": "1"}, "repetition_penalty"),
        (CHAT, {"messages": HELLO, "repeat_penalty": "1"}, "repeat_penalty"),
        (CHAT, {"messages": HELLO, "min_tokens": "1"}, "min_tokens"),
        (CHAT, {"messages": HELLO, "logprobs": "yes"}, "logprobs"),
        (CHAT, {"messages": HELLO, "top_logprobs": True}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "logit_bias": [1]}, "logit_bias"),
        (CHAT, {"messages": HELLO, "ignore_eos": "yes"}, "ignore_eos"),
        (CHAT, {"messages": HELLO, "seed": "lucky"}, "seed"),
        ("/v1/completions", {"prompt": "Hi", "temperature": "hot"}, "temperature"),
        ("/v1/responses", {"input": "Hi", "temperature": "hot"}, "temperature"),
        (CHAT, {"messages": HELLO, "stream": "yes"}, "stream"),
        (CHAT, {"messages": HELLO, "stream_options": 1}, "stream_options"),
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt"),
        ("/v1/completions", {}, "prompt"),
        ("/tokenize", {"content": 1}, "content"),
        (CHAT, b'{"messages":', None),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(
    mock: Any, path: str, body: Any, param: str | None
) -> None:
    status, reply = mock.get(path, body)
    assert status == 400
    assert reply["error"]["param"] == param
    assert reply["error"]["source"] == "engine"


def test_unknown_routes_and_wrong_methods_answer_in_the_same_shape(mock: Any) -> None:
    assert mock.get("/v1/nothing")[0] == 404
    status, body = mock.get(CHAT)
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")


def test_a_key_is_asked_for_when_one_is_set_and_never_shown(start: Any) -> None:
    mock = start(env={API_KEY_VARIABLE: "canary-é"}).wait_until_ready()
    assert mock.get("/health") == (200, {"status": "ok"})
    status, body = mock.get("/v1/models")
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert mock.get("/v1/models", Authorization="Bearer wrong")[0] == 401
    for header in ({"Authorization": b"Bearer canary-\xc3\xa9"}, {"x_api_key": b"canary-\xc3\xa9"}):
        assert mock.get("/v1/models", **header)[0] == 200
    assert b"canary" not in Path(f"/proc/{mock.process.pid}/cmdline").read_bytes()


# -- time and places -------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_the_first_token_and_each_further_one_take_their_time(slow: Any, stream: bool) -> None:
    ask: Any = {"model": "m", "max_tokens": 6, "stream": stream}
    with openai.OpenAI(base_url=f"{slow.url}/v1", api_key="any", max_retries=0) as client:
        for create, prompt in (
            (client.chat.completions.create, {"messages": HELLO}),
            (client.completions.create, {"prompt": "Hi"}),
        ):
            began = time.perf_counter()
            reply = create(**ask, **prompt)
            if stream:
                list(reply)
            assert 0.1 + 5 * 0.02 <= time.perf_counter() - began < 10


def test_sampling_parameters_that_make_sense_are_taken_and_null_is_none(mock: Any) -> None:
    sensible: dict[str, Any] = {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "presence_penalty": -1.5,
        "frequency_penalty": 2,
        "repetition_penalty": 1.1,
        "repeat_penalty": 1,
        "seed": 7,
        "min_tokens": 1,
        "logprobs": True,
        "top_logprobs": 2,
        "logit_bias": {"5": -100},
        "ignore_eos": False,
    }
    for fields in (sensible, dict.fromkeys(sensible)):
        assert mock.get(CHAT, {"messages": HELLO, "max_tokens": 1, **fields})[0] == 200, fields
    assert mock.get("/v1/completions", {"prompt": "Hi", "max_tokens": 1, "logprobs": 3})[0] == 200
    status, body = mock.get(
        "/v1/messages", {"messages": HELLO, "max_tokens": 1, "temperature": "hot"}
    )
    assert (status, body["type"], body["error"]["param"]) == (400, "error", "temperature")


async def test_requests_wait_for_a_slot_in_order_and_too_many_are_refused(
    start: Any, eventually: Any
) -> None:
    mock = start("--itl-ms", "10", "--max-queue", "1").wait_until_ready()
    endless = {"messages": HELLO, "ignore_eos": True, "stream": True}
    async with aiohttp.ClientSession(mock.url) as session:
        running = await session.post(CHAT, json=endless, headers={"x-request-id": "one"})
        waiting = asyncio.ensure_future(
            session.post(CHAT, json=endless, headers={"x-request-id": "two"})
        )
        await eventually(lambda: mock.report()["queued"] == 1)
        async with session.post(CHAT, json=endless) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            error = MockPlugin().parse_error(503, await refused.read())
            assert error is not None
            assert error.code == "engine_busy"
        running.close()
        second = await waiting
        assert second.status == 200
        report = mock.report()
        assert (report["received"], report["refused"], report["cancelled"]) == (3, 1, 1)
        assert (report["running"], report["queued"]) == (1, 0)
        assert report["ids"][:2] == ["one", "two"]
        second.close()
    await eventually(lambda: mock.report()["running"] == 0)


@pytest.mark.parametrize("flags", [("--ttft-ms", "60000"), ("--itl-ms", "60000")])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(
    start: Any, eventually: Any, flags: Any, stream: bool
) -> None:
    mock = start(*flags).wait_until_ready()
    async with aiohttp.ClientSession(mock.url) as session:
        gone = asyncio.ensure_future(session.post(CHAT, json={"messages": HELLO, "stream": stream}))
        waits = asyncio.ensure_future(session.post(CHAT, json={"messages": HELLO}))
        await eventually(lambda: mock.report()["queued"] == 1)
        for leaving in (waits, gone):  # the one in the queue, then the one that runs
            if leaving.done():
                leaving.result().close()
            leaving.cancel()
    await eventually(lambda: (mock.report()["running"], mock.report()["queued"]) == (0, 0))
    assert mock.report()["cancelled"] == 2


# -- the client by URL -----------------------------------------------------------------------------


async def test_the_engine_client_talks_to_a_running_mock(mock: Any) -> None:
    body = {"messages": HELLO, "max_tokens": 3}
    async with MockEngine(mock.url) as engine, aiohttp.ClientSession() as session:
        assert await engine.check_health()
        assert await engine.estimate_tokens(body) == 10 + 3
        async with await engine.forward_request(session, "", body) as reply:
            assert (await reply.json())["usage"]["completion_tokens"] == 3


async def test_the_engine_client_knows_loading_from_gone(start: Any) -> None:
    mock = start("--load-ms", "60000")
    async with MockEngine(mock.url) as engine:
        assert (await engine.health()).state == "starting"
        mock.kill()
        assert not await engine.check_health()
