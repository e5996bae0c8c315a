"""Engines that die with requests open: every official client raises, is told why, and the next request is served."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, Self

import anthropic
import openai
import pytest

from enginery.gateway import Gateway
from support.gateways import in_flight, serving

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
APIS = ("chat", "completions", "responses", "messages")
STATUS_ERRORS = (openai.InternalServerError, anthropic.InternalServerError)
API_ERRORS = (openai.APIError, anthropic.APIError)


class Clients:
    """The official clients of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        url = gateway.base_url
        self.openai = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=60
        )
        self.claude = anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0, timeout=60)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.openai.close()
        await self.claude.close()

    async def ask(self, api: str, model: str, *, tokens: int = 50, stream: bool = False) -> Any:
        more: Any = {"model": model, "stream": stream, "extra_body": {"ignore_eos": True}}
        match api:
            case "chat":
                return await self.openai.chat.completions.create(
                    messages=HELLO, max_tokens=tokens, **more
                )
            case "completions":
                return await self.openai.completions.create(
                    prompt="Hello", max_tokens=tokens, **more
                )
            case "responses":
                return await self.openai.responses.create(
                    input="Hello", max_output_tokens=tokens, **more
                )
            case _:
                return await self.claude.messages.create(messages=HELLO, max_tokens=tokens, **more)

    async def listen(self, api: str, model: str) -> tuple[int, Exception | None]:
        """A stream to its end: how many events came, and what was raised."""
        events = 0
        try:
            async for _ in await self.ask(api, model, stream=True):
                events += 1
        except API_ERRORS as error:
            return events, error
        return events, None


async def rest_of(stream: Any) -> int:
    return len([event async for event in stream])


def pid_of(gateway: Gateway, model: str) -> int:
    (pid,) = [row.pid for row in gateway.manager.status() if row.model == model]
    assert pid is not None
    return pid


async def check_deaths(frames: dict[str, int], *, fast: bool) -> None:
    """A mock for each API that dies behind that frame of its first stream; all at once."""
    models = {
        api: {"parallel": 2, "options": {"die_at_frame": frame, "memory": 1}}
        for api, frame in frames.items()
    }

    async def one(api: str) -> None:
        said = await clients.ask(api, api, tokens=1)  # loads it, and leaves a connection
        assert said.model == api
        events, error = await clients.listen(api, api)
        assert error is not None, f"{api}, frame {frames[api]}: no error behind {events} events"
        assert "exit status 137" in str(error), error
        assert (await clients.ask(api, api, tokens=1)).model == api

    async with (
        serving(models, fast=fast, together=True) as gateway,
        Clients(gateway) as clients,
    ):
        await asyncio.gather(*map(one, frames))
        assert in_flight(gateway) == 0
        assert [row.restarts for row in gateway.manager.status()] == [1] * len(frames)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_an_engine_that_dies_in_a_stream_is_an_error_and_comes_back(fast):
    first, later = ((1, 4), (3, 2))[fast]
    await check_deaths(
        {"chat": first, "completions": later, "responses": first, "messages": later}, fast=fast
    )


@pytest.mark.heavy
@pytest.mark.parametrize("frame", range(1, 40))
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_an_engine_that_dies_behind_any_frame_is_an_error(fast, frame):
    await check_deaths(dict.fromkeys(APIS, frame), fast=fast)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_a_kill_ends_whole_replies_and_streams_with_the_reason(fast, eventually):
    models = {"mock": {"parallel": 8, "options": {"itl_ms": 5000}}}
    async with serving(models, fast=fast) as gateway, Clients(gateway) as clients:
        for _ in range(2):
            assert (await clients.ask("chat", "mock", tokens=1)).model == "mock"
        whole = [asyncio.create_task(clients.ask(api, "mock")) for api in APIS]
        streams = [asyncio.create_task(clients.listen(api, "mock")) for api in APIS]
        await eventually(lambda: in_flight(gateway) == 8, 20)
        os.kill(pid_of(gateway, "mock"), signal.SIGKILL)
        for error in await asyncio.gather(*whole, return_exceptions=True):
            assert isinstance(error, STATUS_ERRORS), error
            assert error.status_code == 502
            assert "killed by SIGKILL" in error.message
            assert error.response.headers["x-should-retry"] == "false"
            assert error.response.headers["x-request-id"]
            assert error.body is not None
        for _, raised in await asyncio.gather(*streams):
            assert raised is not None
            assert "killed by SIGKILL" in str(raised)
        assert in_flight(gateway) == 0
        assert (await clients.ask("chat", "mock", tokens=1)).model == "mock"


async def test_killed_llama_cpp_ends_folded_replies_and_streams_and_comes_back(
    tiny_models, eventually
):
    model = {
        "engine": "llama.cpp",
        "context_length": 30_000,
        "parallel": 8,
        "options": {"model": str(tiny_models / "tiny-chat.gguf"), "threads": 1},
    }
    async with serving({"tiny": model}) as gateway, Clients(gateway) as clients:
        assert (await clients.ask("chat", "tiny", tokens=1)).model == "tiny"

        async def whole(api: str) -> Exception | None:
            try:
                await clients.ask(api, "tiny", tokens=25_000)
            except API_ERRORS as error:
                return error
            return None

        waiting = [asyncio.create_task(whole(api)) for api in APIS]
        streams = [await clients.ask(api, "tiny", tokens=25_000, stream=True) for api in APIS]
        for stream in streams:
            await anext(aiter(stream))
        await eventually(lambda: in_flight(gateway) == 8, 20)
        os.kill(pid_of(gateway, "tiny"), signal.SIGKILL)
        for stream in streams:
            with pytest.raises(API_ERRORS, match="killed by SIGKILL"):
                await rest_of(stream)
        for error in await asyncio.gather(*waiting):
            assert isinstance(error, STATUS_ERRORS), error
            assert error.status_code == 502
            assert "killed by SIGKILL" in error.message
        assert in_flight(gateway) == 0
        assert (await clients.ask("chat", "tiny", tokens=1)).model == "tiny"
