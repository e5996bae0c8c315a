"""A core server's life: starting, clients that leave, deaths on either side, the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from typing import Any

import openai
import psutil
import pytest

from enginery.enginecore.served import SERVED_VARIABLE
from enginery.values import Variant
from support.core_servers import KEY, eventually, mock_variant

SLOW = {"pydantic", "pydantic_core", "click", "pluggy", "prometheus_client", "yaml", "openai"}
LONG: dict[str, Any] = {"prompt": "Hello", "max_tokens": 900, "ignore_eos": True, "stream": True}


def streaming(server) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A long stream that has begun."""
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    link.request("POST", "/v1/completions", json.dumps(LONG), {"x-api-key": KEY})
    reply = link.getresponse()
    assert reply.status == 200
    assert reply.readline().startswith(b"data: ")
    return link, reply


def test_the_server_imports_nothing_that_it_does_not_need() -> None:
    script = (
        "import sys, enginery.coreserver.__main__, enginery.coreserver.app;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "aiohttp" in run.stdout.split()
    assert not SLOW & set(run.stdout.split())


def test_neither_the_key_nor_an_option_is_on_the_command_line(start) -> None:
    server = start(seed=1234567)
    for process in (psutil.Process(server.process.pid), server.core()):
        line = " ".join(process.cmdline())
        assert KEY not in line
        assert "1234567" not in line
    assert KEY not in server.core().environ().values()


def test_while_the_model_loads_it_says_so_and_a_signal_still_ends_it(tmp_path) -> None:
    (tmp_path / "slow_backend.py").write_text("import time\ntime.sleep(600)\n")
    served = '{"engine_type": "mock", "variant": {"model": "m"}}'
    env = {**os.environ, SERVED_VARIABLE: served, "PYTHONPATH": str(tmp_path)}
    script = (
        "import sys, enginery.enginecore.served as served;"
        "served.BACKEND = 'slow_backend:create';"
        "from enginery.coreserver.__main__ import main; sys.exit(main(['--port', '0']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().rpartition(" ")[2].strip()
        with closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as link:
            link.request("GET", "/health")
            reply = link.getresponse()
            assert (reply.status, json.load(reply)["error"]["code"]) == (503, "engine_loading")
            assert reply.headers["Retry-After"] == "1"
        core = psutil.Process(process.pid).children()
        process.terminate()
        assert process.wait(30) == 0
    assert psutil.wait_procs(core, timeout=30)[1] == []


def test_a_backend_that_cannot_be_made_ends_it_with_the_reason(start) -> None:
    server = start(Variant("m", engine_type="nobody"), ready=False)
    assert server.process.wait(30) == 1
    assert "no plugin for engine 'nobody'" in server.process.stdout.read()


def test_a_wrong_option_is_told_as_the_plugins_own(start) -> None:
    server = start(mock_variant(seed=-1), ready=False)
    assert server.process.wait(30) == 1
    assert "seed" in server.process.stdout.read()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_has_its_request_aborted(stream, start) -> None:
    server = start(itl_ms=10)
    with closing(
        http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    ) as link:
        body = json.dumps({**LONG, "stream": stream})
        link.request("POST", "/v1/completions", body, {"x-api-key": KEY})
        eventually(lambda: server.metric("unfinished") == 1)
    eventually(lambda: server.metric("finished_abort") == 1)
    assert server.metric("unfinished") == 0


def test_the_cores_death_is_told_in_the_stream_and_ends_the_server(start) -> None:
    server = start(itl_ms=10)
    core = server.core()
    link, reply = streaming(server)
    with closing(link):
        core.kill()
        frames = reply.read().decode().split("\n\n")
    assert frames[-2] == "data: [DONE]"
    assert json.loads(frames[-3].partition("data: ")[2])["error"]["code"] == "engine_crashed"
    assert server.process.wait(30) == 1
    assert "SIGKILL" in server.process.stdout.read()


def test_the_official_client_raises_when_the_core_dies(start) -> None:
    server = start(itl_ms=10)
    chunks = server.client().completions.create(
        model="tiny", prompt="x", stream=True, max_tokens=900
    )
    next(iter(chunks))
    server.core().kill()
    with pytest.raises(openai.APIError, match="SIGKILL"):
        list(chunks)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whichever_way_it_ends_no_core_is_left(number, start) -> None:
    server = start(itl_ms=10)
    core = server.core()
    link, _ = streaming(server)
    with closing(link):
        code = server.end(number)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert psutil.wait_procs([core], timeout=30)[1] == []


def test_it_serves_on_a_unix_socket(start, tmp_path) -> None:
    path = str(tmp_path / "core.sock")
    start(unix_path=path)
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {**os.environ, SERVED_VARIABLE: '{"engine_type": "mock", "variant": {"model": "m"}}'}
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            [sys.executable, "-m", "enginery.coreserver", "--port", port],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in run.stdout


def test_without_a_variant_it_says_what_is_missing() -> None:
    env = {name: value for name, value in os.environ.items() if name != SERVED_VARIABLE}
    run = subprocess.run(
        [sys.executable, "-m", "enginery.coreserver"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, f"{SERVED_VARIABLE} is not set" in run.stdout) == (1, True)
