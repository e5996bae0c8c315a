"""``serve`` on each event loop: it starts, streams, sees clients leave and engines die, and ends as it is told."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

DEADLINE = 30.0
ENDLESS = 100_000
CONFIG = "models: {m: {engine: mock, preload: true, options: {ttft_ms: 0, itl_ms: 20}}}\n"
PROBE = """
import asyncio, click
from enginery.cli.loops import loop_option
from enginery.cli.session import run_async

@click.command()
@loop_option
@run_async
async def which():
    print(type(asyncio.get_running_loop()).__module__)

which()
"""


class Serving:
    """``enginery serve`` in a process of its own, on a loop of our choice."""

    def __init__(self, directory: Path, loop: str) -> None:
        (directory / "enginery.yaml").write_text(CONFIG)
        self.log = directory / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "enginery.cli", "serve", "--port", "0", "--loop", loop],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: re.search(r"Serving .* at http://\S+\n", self.printed()))
        address = re.search(r"at (http://\S+)\n", self.printed())[1]
        self.host, self.port = urlsplit(address).hostname, urlsplit(address).port

    def printed(self) -> str:
        return self.log.read_text()

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    @contextmanager
    def asking(self, tokens: int) -> Iterator[http.client.HTTPResponse]:
        """A stream, of which the head has come."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE)
        body = {
            "model": "m",
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": "hello"}],
        }
        client.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        try:
            with client.getresponse() as reply:
                assert reply.status == 200, reply.read()
                yield reply
        finally:
            client.close()

    def engine(self) -> dict[str, Any]:
        """What ``enginery ps`` shows of it."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE)
        try:
            client.request("GET", "/api/engines")
            (row,) = json.loads(client.getresponse().read())["engines"]
        finally:
            client.close()
        return row


@pytest.fixture(params=["uvloop", "asyncio"])
def serving(request, tmp_path) -> Iterator[Serving]:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    serving = Serving(tmp_path, request.param)
    yield serving
    serving.process.kill()
    serving.process.wait()


def events(reply: http.client.HTTPResponse) -> Iterator[str]:
    for line in reply:
        if line.startswith(b"data: "):
            yield line[6:].decode().strip()


def test_a_stream_is_answered_and_open_ones_may_finish_after_a_sigterm(serving) -> None:
    with serving.asking(tokens=100) as reply:
        said = events(reply)
        assert json.loads(next(said))["choices"]
        serving.process.terminate()
        rest = list(said)
    assert rest[-1] == "[DONE]"
    assert sum(bool(json.loads(e)["choices"][0]["delta"].get("content")) for e in rest[:-1]) > 90
    assert serving.process.wait(DEADLINE) == 130
    assert "Traceback" not in serving.printed()


def test_a_second_sigterm_ends_it_at_once_and_no_engine_is_left(serving) -> None:
    with serving.asking(ENDLESS) as reply:
        assert next(events(reply))
        engine = psutil.Process(serving.engine()["pid"])
        deadline = time.monotonic() + DEADLINE
        while serving.process.poll() is None:
            assert time.monotonic() < deadline, serving.printed()
            serving.process.terminate()
            time.sleep(0.02)
    assert serving.process.returncode == 128 + signal.SIGTERM
    psutil.wait_procs([engine], timeout=DEADLINE)
    assert not engine.is_running()


def test_a_killed_engine_ends_its_stream_and_another_one_serves_the_next(serving) -> None:
    with serving.asking(ENDLESS) as reply:
        said = events(reply)
        assert next(said)
        killed = serving.engine()["pid"]
        os.kill(killed, signal.SIGKILL)
        *_, failure, end = said
    assert json.loads(failure)["error"]["code"] == "engine_crashed"
    assert end == "[DONE]"
    with serving.asking(tokens=3) as reply:
        assert list(events(reply))[-1] == "[DONE]"
    assert serving.engine()["pid"] != killed


def test_a_client_that_leaves_ends_its_request(serving) -> None:
    with serving.asking(ENDLESS) as reply:
        assert next(events(reply))
        assert serving.engine()["in_flight"] == 1
    serving.until(lambda: serving.engine()["in_flight"] == 0)


@pytest.mark.parametrize(
    ("words", "environ", "module"),
    [
        ([], {}, "uvloop"),
        ([], {"ENGINERY_LOOP": "asyncio"}, "asyncio"),
        (["--loop", "asyncio"], {"ENGINERY_LOOP": "uvloop"}, "asyncio"),
        (["--loop", "auto"], {"ENGINERY_LOOP": "asyncio"}, "uvloop"),
    ],
)
def test_an_option_and_then_the_environment_choose_and_else_it_is_the_fast_one(
    words, environ, module
) -> None:
    pytest.importorskip("uvloop")
    assert probe(words, environ).stdout.startswith(module)


def test_without_uvloop_auto_is_asyncio_s_loop_and_asking_for_it_is_wrong_usage() -> None:
    missing = "import sys; sys.modules['uvloop'] = None\n"
    assert probe([], {}, missing).stdout.startswith("asyncio")
    asked = probe(["--loop", "uvloop"], {}, missing)
    assert asked.returncode == 2
    assert "uvloop is not installed" in asked.stderr


def probe(words: list[str], environ: dict[str, str], first: str = "") -> Any:
    inherited = {name: text for name, text in os.environ.items() if name != "ENGINERY_LOOP"}
    return subprocess.run(
        [sys.executable, "-c", first + PROBE, *words],
        check=False,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
