from __future__ import annotations

import signal
import socket
from typing import Any

import openai
import pytest

from enginery_mock.flags import API_KEY_VARIABLE

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]


def test_while_it_loads_every_path_says_so(start: Any) -> None:
    mock = start("--load-ms", "60000", env={API_KEY_VARIABLE: "k"})
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    for path in ("/health", "/v1/models", "/nothing"):
        assert mock.get(path) == (503, loading)
    assert mock.get("/v1/chat/completions", {"messages": HELLO}) == (503, loading)


def test_it_says_how_far_it_has_loaded_and_then_it_is_ready(start: Any) -> None:
    mock = start("--load-ms", "100").wait_until_ready()
    assert mock.get("/health")[0] == 200
    mock.process.terminate()
    assert "loading model 'mock': 10 %" in mock.end()[1]


def test_a_load_that_fails_gives_its_reason_and_its_exit_code(start: Any) -> None:
    code, stderr = start("--load-exit-code", "42", "--load-ms", "10").end()
    assert code == 42
    assert "failed to load model 'mock'" in stderr


def test_an_address_that_is_taken_is_said_so(start: Any) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            start("--port", port)
    assert "(1, " in str(caught.value)


@pytest.mark.parametrize("phase", ["loading", "idle", "busy"])
def test_sigterm_ends_it_at_once_with_exit_code_0(start: Any, phase: str) -> None:
    flags = ("--load-ms", "60000") if phase == "loading" else ("--itl-ms", "60000")
    mock = start(*flags)
    if phase != "loading":
        mock.wait_until_ready()
    with openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        if phase == "busy":
            stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
            next(stream)
        mock.process.terminate()
        assert mock.process.wait(timeout=30) == 0
        if phase == "busy":
            with pytest.raises(openai.APIConnectionError):
                list(stream)


def test_sigint_ends_it_like_sigterm(start: Any) -> None:
    mock = start().wait_until_ready()
    mock.process.send_signal(signal.SIGINT)
    assert mock.end()[0] == 0


def test_told_to_ignore_sigterm_it_says_so_and_goes_on(start: Any) -> None:
    mock = start("--ignore-sigterm").wait_until_ready()
    mock.process.terminate()
    assert mock.process.stderr is not None
    assert "SIGTERM ignored" in mock.process.stderr.readline()
    assert mock.get("/health")[0] == 200


@pytest.mark.parametrize("frame", [1, 4])
async def test_told_to_die_at_a_frame_it_is_gone_in_the_middle_of_the_stream(
    start: Any, frame: int
) -> None:
    mock = start("--die-at-frame", str(frame)).wait_until_ready()
    chunks = []

    async def read() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{mock.url}/v1", api_key="any", max_retries=0
        ) as client:
            await client.chat.completions.create(model="m", messages=HELLO)  # no stream, no death
            stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401  # the list must survive the error

    with pytest.raises(openai.APIConnectionError):
        await read()
    assert len(chunks) == frame
    assert mock.end()[0] == 137
