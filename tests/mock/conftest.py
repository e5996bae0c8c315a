"""Mock engines as real child processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest


class MockProcess:
    """One ``python -m enginery_mock.server`` on a free port."""

    def __init__(
        self, *flags: str, env: dict[str, str] | None = None, stderr: int = subprocess.PIPE
    ) -> None:
        self.argv = [sys.executable, "-m", "enginery_mock.server", "--port", "0", *flags]
        self.process = subprocess.Popen(
            self.argv,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="backslashreplace",
        )
        self.left_behind: list[int] = []
        self.url = self.line("listening on ").rpartition(" ")[2]

    def line(self, holds: str) -> str:
        """The next line of its output that holds these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if left := re.match(r"enginery-mock: (?:grandchild|holder) (\d+) ", line):
                self.left_behind.append(int(left[1]))
            if holds in line:
                return line.strip()
        raise AssertionError(f"it ended without saying {holds!r}: {self.end()}")

    def wait_until_ready(self) -> MockProcess:
        self.line("ready")
        return self

    def get(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and decoded JSON; a POST when there is a body."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, names)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.get("/mock/requests")[1]
        return report

    def end(self) -> tuple[int, str]:
        """Wait for its end; exit code and what it wrote to stderr."""
        _, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stderr

    def kill(self) -> None:
        self.process.kill()
        for pid in self.left_behind:  # it may hold the pipes that `communicate` reads to their end
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


Start = Callable[..., MockProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start("--slots", "2", env={})``: a mock that listens; killed after the test."""
    started: list[MockProcess] = []

    def begin(*flags: str, **how: Any) -> MockProcess:
        started.append(MockProcess(*flags, **how))
        return started[-1]

    yield begin
    for mock in started:
        mock.kill()


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    """One ready mock for all tests of a module that leave it as it was."""
    process = MockProcess("--slots", "4", "--context-length", "128").wait_until_ready()
    yield process
    process.kill()
