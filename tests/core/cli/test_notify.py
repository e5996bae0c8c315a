"""systemd is told how the service is; here a socket listens in its place."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from enginery.cli.notify import Notifier

DEADLINE = 30.0


class Supervisor:
    """The other end of ``$NOTIFY_SOCKET``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(DEADLINE)

    def told(self) -> list[str]:
        """The next message's lines."""
        return self.socket.recv(4096).decode().split("\n")

    def told_first(self, line: str) -> list[str]:
        """The next message that begins with ``line``."""
        while (lines := self.told())[0] != line:
            assert lines == ["WATCHDOG=1"], lines
        return lines


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    # pytest's own directories are too deep for a socket's path
    with tempfile.TemporaryDirectory() as directory:
        supervisor = Supervisor(f"{directory}/notify")
        with supervisor.socket:
            yield supervisor


async def test_ready_and_stopping_are_told_and_without_a_watchdog_nothing_else(supervisor) -> None:
    async with Notifier(supervisor.address).serving("at\nhome"):
        await asyncio.sleep(0)
    assert supervisor.told() == ["READY=1", "STATUS=at home"]
    assert supervisor.told()[0] == "STOPPING=1"


async def test_the_watchdog_is_fed_twice_within_its_time(supervisor, eventually) -> None:
    supervisor.socket.setblocking(False)
    fed = 0

    def more() -> bool:
        nonlocal fed
        with suppress(BlockingIOError):
            fed += supervisor.told() == ["WATCHDOG=1"]
        return fed >= 5

    async with Notifier(supervisor.address, 0.02).serving("x"):
        await eventually(more, timeout=DEADLINE)


def test_a_reload_says_when_it_began(supervisor) -> None:
    Notifier(supervisor.address).reloading()
    first, second = supervisor.told()
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract_sockets_are_reached() -> None:
    supervisor = Supervisor(f"@enginery-test-{os.getpid()}")
    with supervisor.socket:
        Notifier(supervisor.address).stopping()
        assert supervisor.told()[0] == "STOPPING=1"


def test_a_supervisor_that_does_not_listen_is_no_reason_to_fail(tmp_path, caplog) -> None:
    Notifier(str(tmp_path / "nobody")).ready("x")
    assert "cannot be told READY=1" in caplog.text
    Notifier(None).ready("x")


@pytest.mark.parametrize(
    ("given", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_environment_says_how_and_keeps_nothing_for_engines(given, watchdog) -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "OTHER": "stays", **given}
    assert Notifier.take_from(environ).watchdog == watchdog
    assert environ == {"OTHER": "stays"}


def test_serve_tells_its_supervisor_of_reloads_too_and_its_engines_cannot(
    supervisor, tmp_path: Path
) -> None:
    shows = tmp_path / "shows.py"
    shows.write_text(
        "import os, pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(os.environ.get('NOTIFY_SOCKET', 'nothing'))\n"
        "from enginery_mock.server import main\n"
        "sys.exit(main(['--port', sys.argv[1]]))\n"
    )
    (tmp_path / "enginery.yaml").write_text(
        "models:\n  m:\n    engine: openai\n    preload: true\n"
        f"    binary: {sys.executable}\n    args: ['{shows}', '{{port}}']\n"
    )
    env = {**os.environ, "NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "60000000"}
    serve = subprocess.Popen(
        [sys.executable, "-m", "enginery.cli", "serve", "--port", "0"],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = supervisor.told_first("READY=1")
        assert lines[1].startswith("STATUS=1 model at http://127.0.0.1:")
        good = (tmp_path / "enginery.yaml").read_text()
        for text in (good, "models: [", good):
            (tmp_path / "enginery.yaml").write_text(text)
            asked = time.monotonic_ns() // 1000
            serve.send_signal(signal.SIGHUP)
            _, began = supervisor.told_first("RELOADING=1")
            assert int(began.removeprefix("MONOTONIC_USEC=")) >= asked
            assert supervisor.told_first("READY=1") == lines, "whatever the file said"
        assert serve.stderr is not None
        for line in serve.stderr:
            if "ready" in line and "m/default" in line:
                break
        serve.send_signal(signal.SIGTERM)
        supervisor.told_first("STOPPING=1")
        serve.communicate(timeout=DEADLINE)
        assert serve.returncode == 130
    finally:
        serve.kill()
        serve.communicate()
    assert (tmp_path / "seen").read_text() == "nothing"
