"""The fixture ``mock_engine``: any project's tests get a running mock and ``OPENAI_BASE_URL``.

Knows: pytest, and how the server is started and stopped. Does not know: the server's options; it turns
names into flags and the server refuses those that it has not. pytest imports this file wherever the
distribution is installed, so nothing else is imported until a test asks for the fixture.

A server lives for the session, one for each set of options; under pytest-xdist each worker has its own.
It ends with the session, also when that is killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess

__all__ = ["MockServer", "mock_engine"]

START_SECONDS = 60.0
STOP_SECONDS = 5.0
KEPT_LINES = 200
NEVER_READY = ("hang_in_load", "load_exit_code")
_UNPROXIED = "127.0.0.1"


class MockServer:
    """A running mock engine.

    ``url`` is ``http://127.0.0.1:PORT``, as the clients of Anthropic take it; ``base_url`` ends in
    ``/v1``, as those of OpenAI do. ``log`` holds the last lines that the server printed.

    Raises:
        RuntimeError: it did not start; its own words are in the message.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        import collections
        import threading

        self.model = str(options.get("model", "mock"))
        self.api_key = "mock-engine"
        self.url = ""
        self.log: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self._options = options
        self._ready = threading.Event()
        self._process = self._start()
        # the pipe is read to the end: a server that nobody listens to would stop at a full one
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not self.url:
            self.stop()
            said = "\n".join(self.log)
            raise RuntimeError(f"the mock engine did not start with {options}:\n{said}")

    @property
    def base_url(self) -> str:
        """What ``OPENAI_BASE_URL`` is set to."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once it has ended, as some of its options make it do."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it; the second call does nothing."""
        import subprocess

        if self.running:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._reader.join(STOP_SECONDS)

    def _start(self) -> subprocess.Popen[str]:
        import subprocess
        import sys

        return subprocess.Popen(
            [sys.executable, "-m", "enginery_mock.attended", "--port", "0", *_flags(self._options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
        )

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        waits_for = "listening on " if any(map(self._options.get, NEVER_READY)) else "ready:"
        with self._process.stdout as lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                if "listening on " in line:
                    self.url = line.rpartition(" ")[2].strip()
                if waits_for in line:
                    self._ready.set()
        self._ready.set()  # it ended: nothing more to wait for


def _flags(options: dict[str, Any]) -> list[str]:
    from enginery_mock.flags import write

    flags = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not False and value is not None:
            flags += [flag, write(value)]
    return flags


class _Pool:
    """The servers of this session, by their options."""

    def __init__(self) -> None:
        self._servers: dict[str, MockServer] = {}

    def get(self, options: dict[str, Any]) -> MockServer:
        """The server with these options; a new one when the last has ended."""
        key = repr(sorted(options.items()))
        server = self._servers.get(key)
        if server is None or not server.running:
            if server is not None:
                server.stop()
            server = self._servers[key] = MockServer(options)
        return server

    def close(self) -> None:
        for server in self._servers.values():
            server.stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting ``mock_engine``, for the options of all tests."""
    parser.addini(
        "mock_engine",
        type="args",
        default=[],
        help="options of the mock_engine fixture's server, such as ttft_ms=20 slots=4",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker, which strict markers want to know."""
    config.addinivalue_line(
        "markers",
        "mock_engine(**options): options of the mock_engine fixture's server for this test",
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The ini file's, then those of the markers, from the module to the test."""
    options: dict[str, Any] = {}
    for word in request.config.getini("mock_engine"):
        name, _, value = word.partition("=")
        options[name.replace("-", "_")] = value or True
    for marker in reversed(list(request.node.iter_markers("mock_engine"))):
        options.update(marker.kwargs)
    return options


@pytest.fixture(scope="session")
def _mock_engines() -> Iterator[_Pool]:
    pool = _Pool()
    yield pool
    pool.close()


@pytest.fixture
def mock_engine(
    request: pytest.FixtureRequest, _mock_engines: _Pool, monkeypatch: pytest.MonkeyPatch
) -> MockServer:
    """A running mock engine; ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` lead there for this test.

    Options come from the marker ``mock_engine`` and from the setting of that name.
    """
    import os

    server = _mock_engines.get(_options(request))
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
    for name in ("NO_PROXY", "no_proxy"):  # clients would ask a proxy for this machine too
        hosts = [os.environ[name]] if os.environ.get(name) else []
        monkeypatch.setenv(name, ",".join([*hosts, _UNPROXIED]))
    return server
