"""Real llama.cpp servers and tiny models for the tests of this plugin.

Servers are started from `build_command`'s own argv, as plain children: the manager is not needed.
Each has one thread: two spin against each other on a busy machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from enginery import Command, Endpoint, EngineReply, RunningEngine, Variant
from enginery_llamacpp.binary import BUNDLED_SERVER
from enginery_llamacpp.command import build_command

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_models.py"
TOKENIZER = ROOT / "scripts" / "tiny_tokenizer.py"
KEY = "a-key-of-this-spawn"
DEADLINE = 30.0
LISTENS = re.compile(r"enginery_llamacpp\.server: listening on ").search
"""Perhaps in the middle of one of llama.cpp's own lines: its log has a thread of its own."""


@dataclass
class Server:
    """One llama.cpp server: the process, where it listens, what it printed."""

    variant: Variant
    endpoint: Endpoint
    command: Command
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read_log(self) -> None:
        assert self.process.stderr is not None
        self.lines += (line.rstrip("\n") for line in self.process.stderr)

    def request(
        self, path: str, body: Any = None, *, key: str | None = KEY, timeout: float = DEADLINE
    ) -> EngineReply:
        connection = self.connect(timeout)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            if key is not None:
                headers["Authorization"] = f"Bearer {key}"
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request("GET" if data is None else "POST", path, data, headers)
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return EngineReply(reply.status, names, reply.read())

    def connect(self, timeout: float = DEADLINE) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.endpoint.host, self.endpoint.port, timeout=timeout)

    def events(self, path: str, body: Any) -> list[str]:
        """The data of each event of a stream."""
        text = self.request(path, body).body.decode()
        return [
            line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data")
        ]

    def running(self) -> RunningEngine:
        async def transport(
            method: str, path: str, body: Any, timeout: float | None
        ) -> EngineReply:
            return self.request(path, None if method == "GET" else body)

        return RunningEngine(self.variant, self.endpoint, self.process.pid, transport)

    def wait_ready(self) -> None:
        """Until it is well, and has said so: it is well a moment before it has handlers of signals."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.request("/health").status == 200 and any(map(LISTENS, self.lines)):
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(0.01)  # the pause between two looks
                raise AssertionError(f"llama.cpp ended with {code}: {self.lines}")
        raise AssertionError(f"llama.cpp was not ready in time: {self.lines}")

    def stop(self) -> int:
        """By the stop plan that its command came with; returns the exit code."""
        for number, wait in self.command.stop_plan.signals:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(wait)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a busy machine may take longer
            return self.process.wait(DEADLINE)
        raise AssertionError("the stop plan's signals did not end llama.cpp")


Start = Callable[..., contextlib.AbstractContextManager[Server]]


def run_server(
    model: str | None,
    *,
    parallel: int = 1,
    context_length: int | None = 1024,
    env: dict[str, str] | None = None,
    ready: bool = True,
    **options: Any,
) -> contextlib.AbstractContextManager[Server]:
    @contextlib.contextmanager
    def running() -> Iterator[Server]:
        variant = Variant(
            model="tiny",
            engine_type="llama.cpp",
            context_length=context_length,
            parallel=parallel,
            options={"model": model, "threads": 1, **options},
        )
        endpoint = Endpoint("127.0.0.1", free_port(), api_key=KEY)
        command = build_command(variant, endpoint, BUNDLED_SERVER)
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",  # llama.cpp logs the bytes of half a character
        )
        server = Server(variant, endpoint, command, process)
        reader = threading.Thread(target=server.read_log)
        reader.start()
        try:
            if ready:
                server.wait_ready()
            yield server
        finally:
            process.kill()
            process.wait()
            reader.join()
            if process.stderr is not None:
                process.stderr.close()

    return running()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def make_models() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("make_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_models"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models(make_models) -> Path:
    """A directory with the tiny models, made once per version of the script and of Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    tag = hashlib.sha256(SCRIPT.read_bytes() + TOKENIZER.read_bytes() + version).hexdigest()[:12]
    directory = ROOT / ".models" / tag
    make_models.make(directory)
    return directory


@pytest.fixture(scope="session")
def start(models) -> Start:
    """`start("tiny-chat", parallel=2)`: a context manager with a server that is ready."""

    def start_by_name(name: str, **settings: Any) -> contextlib.AbstractContextManager[Server]:
        return run_server(str(models / f"{name}.gguf"), **settings)

    return start_by_name


@pytest.fixture(scope="session")
def chat(start) -> Iterator[Server]:
    """One server for every test that only asks: two slots of 1,024 tokens."""
    with start("tiny-chat", parallel=2) as server:
        yield server


@pytest.fixture(scope="session")
def chat_bos(start) -> Iterator[Server]:
    """The same with a token that begins every prompt."""
    with start("tiny-chat-bos") as server:
        yield server


@pytest.fixture(scope="session")
def start_server() -> Start:
    """`start_server(path, ready=False)`: the same for any file, which may be missing."""
    return run_server
