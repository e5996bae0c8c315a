"""The ``enginery`` command many times for the price of one import: a process that forks itself for each call.

Run as a script it is that process: a line of JSON in, one out. Each call is a process of its own, with pipes or with
a terminal of its own, a clean environment and real exit codes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["CommandLine", "Done"]

PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Done:
    """How a call ended and what it printed; on a terminal all of it is ``out``."""

    code: int
    out: str
    err: str


class CommandLine:
    """A context manager: ``command_line("ps", "--json")``, in ``directory`` unless a call names another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=PATIENCE)

    def __call__(
        self,
        *argv: str,
        terminal: bool = False,
        stdin: str = "",
        directory: Path | None = None,
        **environ: str,
    ) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "argv": argv,
            "terminal": terminal,
            "stdin": stdin,
            "directory": str(directory or self._directory),
            "environ": environ,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    """Carry out orders until there are no more."""
    import click

    import enginery.cli

    pending: list[click.Command] = [enginery.cli.cli]
    while pending:  # the costly part, once: each command is imported when it is looked up
        command = pending.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            pending += [command.get_command(context, n) for n in command.list_commands(context)]

    for line in sys.stdin:
        order = json.loads(line)
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(order["stdin"].encode())
            given.seek(0)
            if order["terminal"]:
                pid, terminal = pty.fork()
            else:
                pid, terminal = os.fork(), None
            if pid == 0:
                os.dup2(given.fileno(), 0)  # its stdin is not our orders
                os.chdir(order["directory"])
                if terminal is None:
                    os.dup2(out.fileno(), 1)
                    os.dup2(err.fileno(), 2)
                os.environ.update(order["environ"])
                signal.alarm(PATIENCE - 10)
                sys.argv = ["enginery", *order["argv"]]
                enginery.cli.main()
                os._exit(99)  # click leaves by itself
            said = b"" if terminal is None else read_all(terminal)
            _, status = os.waitpid(pid, 0)
            for file in (out, err):
                file.seek(0)
            done = {
                "code": os.waitstatus_to_exitcode(status),
                "out": (said or out.read()).decode("utf-8", "replace"),
                "err": err.read().decode("utf-8", "replace"),
            }
        print(json.dumps(done), flush=True)


def read_all(terminal: int) -> bytes:
    said = b""
    with contextlib.suppress(OSError):  # Linux: EIO when the other side is closed
        while data := os.read(terminal, 65536):
            said += data
    os.close(terminal)
    return said


if __name__ == "__main__":
    serve()
