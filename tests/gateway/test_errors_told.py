"""Every error that can arise in the gateway, as the official clients get it: class, status, code, headers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from enginery import EngineStartFailed
from enginery.engine.endpoints import free_endpoint
from enginery.engine.restarts import RestartPolicy
from support.gateways import GatewayThread, in_flight, serving
from support.raw_engine import RawEngine, head

CHAT = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
LOG = 3


@pytest.fixture(scope="module")
def house():
    models = {
        "mock": {"context_length": 64, "options": {"memory": 1}},
        "full": {"options": {"memory": 1, "max_queue": 0, "itl_ms": 60_000}},
        "broken": {"options": {"memory": 1, "load_exit_code": LOG}},
        "away": {"url": free_endpoint().base_url},
        "few": {"features": ["completions"], "options": {"memory": 1}},
    }
    with GatewayThread(models, together=True, server={"body_limit": 100_000}) as house:
        yield house


@pytest.fixture
def client(house):
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(house):
    with anthropic.Anthropic(base_url=house.url, api_key="any", max_retries=0) as client:
        yield client


def chat(model: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


CASES: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], int, str, str]] = {
    "too long": (
        chat("mock", "word " * 200),
        openai.BadRequestError,
        400,
        "context_length_exceeded",
        "invalid_request_error",
    ),
    "no such model": (
        chat("mokc"),
        openai.NotFoundError,
        404,
        "model_not_found",
        "not_found_error",
    ),
    "no chat": (
        chat("few"),
        openai.NotFoundError,
        404,
        "endpoint_not_supported",
        "not_found_error",
    ),
    "a wrong field": (
        {**chat("mock"), "n": 0},
        openai.BadRequestError,
        400,
        "invalid_request_error",
        "invalid_request_error",
    ),
    "too large": (
        chat("mock", "x" * 100_001),
        openai.APIStatusError,
        413,
        "body_too_large",
        "invalid_request_error",
    ),
    "cannot start": (
        chat("broken"),
        openai.InternalServerError,
        502,
        "engine_start_failed",
        "server_error",
    ),
    "nobody there": (
        chat("away"),
        openai.InternalServerError,
        502,
        "engine_unreachable",
        "server_error",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_error_is_the_clients_own_class_with_our_code(
    client: openai.OpenAI, case: str, stream: bool
) -> None:
    body, kind, status, code, type_ = CASES[case]
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**body, stream=stream)
    error = raised.value
    assert (error.status_code, error.code, error.type) == (status, code, type_)
    assert isinstance(error.body, dict)
    assert error.body["source"] == ("engine" if case == "a wrong field" else "gateway")
    assert error.request_id
    assert error.response.headers["content-type"] == "application/json; charset=utf-8" or (
        error.response.headers["content-type"] == "application/json"
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (chat("mock", "word " * 200), anthropic.BadRequestError, 400),
        (chat("mokc"), anthropic.NotFoundError, 404),
        (chat("mock", "x" * 100_001), anthropic.APIStatusError, 413),
        (chat("broken"), anthropic.InternalServerError, 502),
        (chat("away"), anthropic.InternalServerError, 502),
    ],
    ids=["too long", "no such model", "too large", "cannot start", "nobody there"],
)
def test_anthropics_client_gets_its_own_shape(
    claude: anthropic.Anthropic, body: Any, kind: Any, status: int, stream: bool
) -> None:
    with pytest.raises(kind) as raised:
        claude.messages.create(**body, max_tokens=5, stream=stream)
    error = raised.value
    assert error.status_code == status
    assert error.body["type"] == "error"
    assert {"type", "message", "code", "source"} <= set(error.body["error"])
    assert error.response.headers["x-request-id"]


def test_errors_say_what_helps(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"64") as raised:
        client.chat.completions.create(**chat("mock", "word " * 200))
    with pytest.raises(openai.NotFoundError, match="mock"):
        client.chat.completions.create(**chat("mokc"))
    with pytest.raises(openai.InternalServerError, match=f"exit status {LOG}") as raised:
        client.chat.completions.create(**chat("broken"))
    assert "last lines of its log" in raised.value.message


def test_an_engine_without_room_may_be_asked_again(house: Any) -> None:
    """Its own refusal, before it has begun: the only one of an engine's that clients may repeat."""

    async def both() -> openai.APIStatusError:
        async with openai.AsyncOpenAI(
            base_url=f"{house.url}/v1", api_key="x", max_retries=0
        ) as client:
            stream = await client.chat.completions.create(**chat("full", stream=True))
            await anext(aiter(stream))
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(**chat("full"))
            await stream.close()
            return raised.value

    error = asyncio.run(both())
    assert (error.status_code, error.code) == (503, "engine_busy")
    assert error.response.headers["retry-after"] == "1"
    assert error.response.headers.get("x-should-retry") != "false"


# -- what no client of theirs would send -----------------------------------------------------------------

RAW: dict[str, tuple[str, str, dict[str, str], bytes, int, str]] = {
    "no JSON": ("POST", CHAT, {}, b"{", 400, "invalid_request_error"),
    "no UTF-8": ("POST", CHAT, {}, b'{"model":"\xff"}', 400, "invalid_request_error"),
    "a key twice": (
        "POST",
        CHAT,
        {},
        b'{"model":"mock","model":"mock"}',
        400,
        "invalid_request_error",
    ),
    "compressed": (
        "POST",
        CHAT,
        {"Content-Encoding": "gzip"},
        b"x",
        415,
        "unsupported_media_type",
    ),
    "a form": (
        "POST",
        CHAT,
        {"Content-Type": "multipart/form-data; boundary=x"},
        b"x",
        415,
        "unsupported_media_type",
    ),
    "a GET": ("GET", CHAT, {}, b"", 405, "method_not_allowed"),
    "a PUT": ("PUT", CHAT, {}, b"{}", 405, "method_not_allowed"),
    "nothing there": ("GET", "/v2/else", {}, b"", 404, "endpoint_not_supported"),
    "a POST to what is ours": ("POST", "/v1/models", {}, b"{}", 405, "method_not_allowed"),
    "another route": (
        "POST",
        "/v1/audio/speech",
        {},
        b'{"model":"mock"}',
        404,
        "endpoint_not_supported",
    ),
}


@pytest.mark.parametrize("case", RAW)
async def test_a_request_that_cannot_be_served_is_told_so_in_our_shape(house, case):
    method, path, headers, body, status, code = RAW[case]
    headers = {"Content-Type": "application/json", "x-request-id": "mine-1", **headers}
    async with (
        aiohttp.ClientSession(house.url) as session,
        session.request(method, path, data=body, headers=headers) as reply,
    ):
        error = (await reply.json())["error"]
        assert (reply.status, error["code"], error["source"]) == (status, code, "gateway")
        assert reply.headers["x-request-id"] == "mine-1"
        assert {"message", "type", "param"} <= set(error)
        if status == 405:
            assert reply.headers["Allow"]


# -- what time brings --------------------------------------------------------------------------------


def sdk(gateway: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0)


async def test_a_full_queue_is_a_429_with_a_time_to_come_back(eventually):
    models = {"mock": {"options": {"load_ms": 60_000}}}
    async with serving(models, max_queue=2) as gateway, sdk(gateway) as client:
        waiting = [
            asyncio.create_task(client.chat.completions.create(**chat("mock"))) for _ in range(2)
        ]
        await eventually(lambda: sum(r.queued for r in gateway.manager.status()) == 2, 20)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(**chat("mock", stream=stream))
            assert raised.value.code == "queue_full"
            assert 1 <= int(raised.value.response.headers["retry-after"]) <= 120
            assert "x-should-retry" not in raised.value.response.headers
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_waited_too_long_is_told_that_nothing_became_free():
    models = {"mock": {"options": {"load_ms": 60_000}}}
    async with serving(models, queue_timeout=0.3) as gateway, sdk(gateway) as client:
        with pytest.raises(openai.InternalServerError, match="queue_timeout") as raised:
            await client.chat.completions.create(**chat("mock"))
        assert (raised.value.status_code, raised.value.code) == (503, "engine_busy")
        assert int(raised.value.response.headers["retry-after"]) <= 120


async def test_a_model_that_failed_too_often_is_quarantined():
    models = {"mock": {"options": {"load_exit_code": LOG}}}
    async with serving(models) as gateway, sdk(gateway) as client:
        with suppress(EngineStartFailed):
            await gateway.manager.load("mock")
        (one,) = gateway.manager._dispatcher.scheduler._roster.instances.values()
        one.record.policy, one.record.retry_at = RestartPolicy(failures=2), 0.0  # not five, at once
        with pytest.raises(openai.InternalServerError, match="exit status"):
            await client.chat.completions.create(**chat("mock"))
        with pytest.raises(openai.InternalServerError, match="failed too often") as raised:
            await client.chat.completions.create(**chat("mock"))
        assert (raised.value.status_code, raised.value.code) == (503, "engine_quarantined")


async def test_an_engine_that_says_that_it_loads_may_be_asked_again():
    """It looked well: what it says of itself is passed on."""

    async def answer(writer: asyncio.StreamWriter, path: str, asked: dict[str, Any]) -> None:
        said = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
        writer.write(head("503 No", f"Content-Length: {len(said)}") + said)

    async with (
        RawEngine(answer) as engine,
        serving({"mock": {"url": engine.url}}) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(**chat("mock"))
        assert (raised.value.status_code, raised.value.code) == (503, "engine_loading")
        assert raised.value.response.headers["retry-after"] == "1"
        assert raised.value.response.headers.get("x-should-retry") != "false"
        assert in_flight(gateway) == 0


async def test_a_whole_reply_whose_engine_is_taken_away_is_a_503(eventually):
    models = {"mock": {"options": {"ttft_ms": 60_000}}}
    async with serving(models) as gateway, sdk(gateway) as client:
        asked = asyncio.create_task(client.chat.completions.create(**chat("mock")))
        await eventually(lambda: gateway._watch.relays, 20)  # the engine has it
        await gateway.manager.unload("mock", drain=False)
        with pytest.raises(openai.InternalServerError) as raised:
            await asked
        assert (raised.value.status_code, raised.value.code) == (503, "engine_evicted")
        assert raised.value.response.headers["retry-after"] == "1"
        assert raised.value.response.headers["x-should-retry"] == "false"
