"""How commands that run engines end: in order, at once, or with what they had to leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

DEADLINE = 30.0
STUBBORN = """
models:
  m:
    engine: openai
    binary: {python}
    args: [-P, -m, enginery_mock.server, --host, "{{host}}", --port, "{{port}}", --model, m,
           --itl-ms, "1000", --never-die]
"""


class Command:
    """A command in a child process, with what it prints."""

    def __init__(self, directory: Path, *argv: str) -> None:
        self.directory = directory
        self.output = directory / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.family: list[psutil.Process] = []

    def wait_for(self, text: str) -> None:
        """Returns when ``text`` was printed; then all processes below are known."""
        self.until(lambda: text in self.printed(), f"never printed {text!r}")
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def printed(self) -> str:
        return self.output.read_text()

    def until(self, true: Callable[[], object], else_: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline, f"{else_}; printed: {self.printed()}"
            time.sleep(0.01)

    def nothing_is_left(self) -> None:
        self.until(lambda: not any(map(is_alive, self.family)), "something is left")


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Command]]:
    """Starts Python with these arguments; what is left of it at the end of the test is killed."""
    started: list[Command] = []

    def begin(*argv: str) -> Command:
        started.append(Command(tmp_path, *argv))
        return started[-1]

    yield begin
    for command in started:
        command.process.kill()
        command.process.wait()
        for process in filter(is_alive, command.family):
            process.kill()


@pytest.mark.parametrize(
    "words",
    [["run", "m", "hello", "--max-tokens", "100000", "-v"], ["serve", "--port", "0"]],
    ids=["run", "serve"],
)
def test_an_engine_that_will_not_die_is_named_and_the_command_leaves_with_1(start, tmp_path, words):
    """Its guardians are frozen, so that nobody carries out the manager's orders."""
    (tmp_path / "enginery.yaml").write_text(
        "defaults: {stop_timeout: 200ms}\n"
        "models: {m: {engine: mock, preload: true, options: {itl_ms: 1000, never_die: true}}}\n"
    )
    command = start("-m", "enginery.cli", *words)
    command.wait_for("starting → ready")
    outer, inner, engine = command.family
    for guardian in (outer, inner):
        guardian.send_signal(signal.SIGSTOP)
    command.process.send_signal(signal.SIGINT)
    assert command.process.wait(DEADLINE) == 1
    left = f"m/default (pid {engine.pid}, leaked)"
    said = f"Error: shutdown is incomplete, these engines are left: {left}"
    assert command.printed().count(said) == 1
    assert "Traceback" not in command.printed()
    assert is_alive(engine)
    for guardian in (outer, inner):
        guardian.send_signal(signal.SIGCONT)
    command.nothing_is_left()


def test_a_second_signal_ends_a_run_at_once_and_the_guardians_end_the_engine(start, tmp_path):
    (tmp_path / "enginery.yaml").write_text(STUBBORN.format(python=sys.executable))
    command = start("-m", "enginery.cli", "run", "m", "hello", "--max-tokens", "100000", "-v")
    command.wait_for("is ready after")
    assert len(command.family) == 3
    command.process.send_signal(signal.SIGINT)
    command.wait_for("→ stopping")  # the engine ignores SIGTERM, and has ten seconds
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(DEADLINE) == 128 + signal.SIGTERM
    assert "\nstopped" not in command.printed()
    command.nothing_is_left()


def test_a_second_signal_ends_a_command_whose_event_loop_is_stuck(start):
    command = start(
        "-c",
        dedent("""
        from enginery.cli.session import run_async

        @run_async
        async def stuck():
            print("stuck", flush=True)
            while True:
                pass

        stuck()
        """),
    )
    command.wait_for("stuck")
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(command.process.pid, number)
    assert command.process.wait(DEADLINE) == 128 + signal.SIGTERM


def test_what_failed_before_is_told_before_what_is_left(start):
    command = start(
        "-c",
        dedent("""
        from enginery import EngineLeaked, EngineStartFailed
        from enginery.cli.session import run_async

        @run_async
        async def unlucky():
            try:
                raise EngineStartFailed("no such file")
            finally:
                raise EngineLeaked("m/default is left")

        unlucky()
        """),
    )
    assert command.process.wait(DEADLINE) == 1
    assert command.printed().splitlines() == ["Error: no such file", "Error: m/default is left"]
