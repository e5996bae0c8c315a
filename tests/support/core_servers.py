"""Core servers as real child processes, started with the command line that the manager uses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import openai
import psutil

from enginery.enginecore.served import Served
from enginery.values import Endpoint, Variant

__all__ = ["KEY", "PATIENCE", "CoreServer", "eventually", "mock_variant"]

KEY = "a-key-of-this-spawn"
PATIENCE = 30.0


def mock_variant(**options: Any) -> Variant:
    return Variant(
        "tiny",
        engine_type="mock",
        context_length=1024,
        parallel=8,
        options={"in_process": True, **options},
    )


def eventually(holds: Callable[[], Any], pause: float = 0.02) -> Any:
    """What ``holds`` returns, as soon as that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(pause)  # between two looks at another process
    return found


class CoreServer:
    """One process. `line` reads what it prints; the rest talks to it."""

    def __init__(self, served: Served, unix_path: str | None = None) -> None:
        host = "localhost" if unix_path else "127.0.0.1"
        command = served.command(Endpoint(host, 0, KEY, unix_path))
        self.printed: list[str] = []
        self.process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.url = ""
        self._client: openai.OpenAI | None = None

    def line(self, holds: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            if holds in line:
                return line.strip()
        raise AssertionError(f"it ended without saying {holds!r}: {self.printed}")

    def ready(self) -> CoreServer:
        self.url = self.line("listening on").rpartition(" ")[2]
        self.line("ready")
        return self

    def ask(
        self, method: str, path: str, body: Any = None, key: str | None = KEY
    ) -> tuple[int, Any, dict[str, str]]:
        where = self.url.removeprefix("http://")
        with closing(http.client.HTTPConnection(where, timeout=PATIENCE)) as link:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            link.request(method, path, None if body is None else json.dumps(body), headers)
            reply = link.getresponse()
            text = reply.read().decode()
            kind = reply.headers.get_content_type()
            return (
                reply.status,
                json.loads(text) if kind.endswith("json") else text,
                dict(reply.headers),
            )

    def client(self) -> openai.OpenAI:
        if self._client is None:
            self._client = openai.OpenAI(
                base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE
            )
        return self._client

    def metric(self, name: str) -> float:
        _, text, _ = self.ask("GET", "/metrics")
        lines = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
        return float(lines[f"enginery_core_{name}"])

    def core(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.printed += self.process.stdout.readlines()
        return code

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
