"""What a broken engine's process does, each shown with a real one."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import psutil
import pytest

from enginery_mock import MockEngine

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]
CHAT = "/v1/chat/completions"


def lives(pid: int) -> bool:
    """False for a zombie too: it may have a parent that never asks."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_hanging_in_load_it_is_silent_and_still_ends_on_sigterm(start: Any) -> None:
    mock = start("--hang-in-load")
    assert mock.get("/health")[0] == 503
    mock.process.terminate()
    assert mock.process.communicate(timeout=30) == ("", "")
    assert mock.process.returncode == 0


def test_it_may_hang_after_it_has_loaded_to_the_end(start: Any) -> None:
    mock = start("--hang-in-load", "--load-ms", "20", stderr=subprocess.STDOUT)
    mock.line("loading model 'mock': 100 %")
    assert mock.get("/health")[0] == 503


@pytest.mark.parametrize("stream", [True, False])
def test_it_crashes_at_a_token_counted_over_all_requests(start: Any, stream: bool) -> None:
    mock = start("--crash-after-tokens", "7").wait_until_ready()
    assert mock.get(CHAT, {"messages": HELLO, "max_tokens": 3})[0] == 200
    said = []

    def read() -> None:
        with openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
            reply: Any = client.chat.completions.create(model="m", messages=HELLO, stream=stream)
            for chunk in reply:
                said.append(chunk.choices[0].delta.content)  # noqa: PERF401  # the list must survive

    with pytest.raises(openai.APIConnectionError):
        read()
    assert len([text for text in said if text]) == (4 if stream else 0)
    assert mock.process.wait(timeout=30) == -signal.SIGSEGV


def test_a_flood_keeps_to_its_rate(start: Any) -> None:
    began = time.monotonic()
    mock = start("--flood-log", "2000000", stderr=subprocess.STDOUT)
    flood = os.read(mock.process.stdout.fileno(), 1)
    while len(flood) < 500_000:
        flood += os.read(mock.process.stdout.fileno(), 1 << 20)
    assert time.monotonic() - began > 0.2
    assert b"\x00" in flood
    assert b" 10 %\r" in flood
    assert max(map(len, flood.split(b"\n"))) > 200_000


def test_in_a_flood_as_fast_as_it_can_requests_are_answered_while_somebody_reads(
    start: Any,
) -> None:
    mock = start("--flood-log", "max", stderr=subprocess.STDOUT)
    read, tail, told = 0, b"", False

    def drain() -> None:
        nonlocal read, tail, told
        while block := os.read(mock.process.stdout.fileno(), 1 << 20):
            read += len(block)
            told = told or b"request r-77: 10 prompt tokens" in tail + block
            tail = block[-100:]

    reader = threading.Thread(target=drain)
    reader.start()
    while mock.get("/health")[0] != 200:
        pass
    while read < 20_000_000:
        assert mock.get(CHAT, {"messages": HELLO}, x_request_id="r-77")[0] == 200
    mock.process.kill()
    reader.join(timeout=30)
    assert told


def test_a_grandchild_keeps_the_pipes_open_after_the_end(start: Any) -> None:
    mock = start("--fork-grandchild", "pipes")
    mock.line("try: ")  # the last that it says
    (grandchild,) = mock.left_behind
    mock.process.kill()
    mock.process.wait()
    assert lives(grandchild)
    assert select.select([mock.process.stdout], [], [], 0)[0] == []  # neither bytes nor the end
    os.kill(grandchild, signal.SIGTERM)
    assert mock.process.communicate(timeout=30) == ("", "")


def test_a_grandchild_in_a_session_of_its_own_ignores_sigterm_and_outlives_the_pipes(
    start: Any,
) -> None:
    mock = start("--fork-grandchild", "setsid").wait_until_ready()
    (grandchild,) = mock.left_behind
    assert os.getsid(grandchild) not in {os.getsid(mock.process.pid), mock.process.pid}
    assert os.getpgid(grandchild) != os.getpgid(mock.process.pid)
    assert grandchild not in {child.pid for child in psutil.Process(mock.process.pid).children()}
    ignored = Path(f"/proc/{grandchild}/status").read_text().partition("SigIgn:")[2].split()[0]
    assert int(ignored, 16) & 1 << (signal.SIGTERM - 1)
    mock.process.kill()
    mock.process.communicate(timeout=30)  # to the end of both pipes
    assert lives(grandchild)


async def test_health_may_say_ok_while_it_loads(start: Any) -> None:
    mock = start("--lie-on-health", "loading", "--hang-in-load")
    assert mock.get("/health") == (200, {"status": "ok"})
    assert mock.get(CHAT, {"messages": HELLO})[0] == 503
    assert mock.get("/v1/models")[0] == 503
    async with MockEngine(mock.url) as engine:
        assert (await engine.health()).state == "ready"


@pytest.mark.parametrize("stream", [True, False])
async def test_health_may_say_ok_while_generation_hangs(
    start: Any, eventually: Any, stream: bool
) -> None:
    mock = start(
        "--lie-on-health", "stuck", "--stuck-after-requests", "1", "--slots", "2"
    ).wait_until_ready()
    assert mock.get(CHAT, {"messages": HELLO})[0] == 200
    async with aiohttp.ClientSession(mock.url) as session:
        ask = {"messages": HELLO, "stream": stream}
        stuck = asyncio.create_task(session.post(CHAT, json=ask))
        await eventually(lambda: mock.report()["running"] == 1)
        assert mock.get("/health") == (200, {"status": "ok"})
        assert not stuck.done()
        mock.process.terminate()
        with pytest.raises(aiohttp.ClientError):
            await stuck
    assert mock.end()[0] == 0


def bound(url: str) -> bool:
    """Whether the port can be had, as the next engine would try it."""
    try:
        socket.create_server(("127.0.0.1", urlsplit(url).port or 0)).close()
    except OSError:
        return False
    return True


def test_a_detached_process_keeps_the_port_and_never_answers(start: Any) -> None:
    mock = start("--hold-port", "60").wait_until_ready()
    mock.process.terminate()
    mock.line("holder")
    mock.process.communicate(timeout=30)  # the holder has no pipes
    (holder,) = mock.left_behind
    assert mock.process.returncode == 0
    assert lives(holder)
    assert not bound(mock.url)
    with socket.create_connection(("127.0.0.1", urlsplit(mock.url).port or 0)) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert select.select([caller], [], [], 0)[0] == []


async def test_the_port_is_free_again_after_its_time(start: Any, eventually: Any) -> None:
    mock = start("--hold-port", "0.2", "--load-exit-code", "3")
    mock.line("holder")
    assert mock.end()[0] == 3
    await eventually(lambda: bound(mock.url))


def test_only_sigkill_ends_what_never_dies(start: Any) -> None:
    mock = start("--never-die").wait_until_ready()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        mock.process.send_signal(number)
    assert mock.get("/health")[0] == 200
    mock.process.kill()
    assert mock.process.wait(timeout=30) == -signal.SIGKILL
    with pytest.raises(urllib.error.URLError):
        mock.get("/health")
