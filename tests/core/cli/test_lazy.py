"""A command imports what it needs: one that asks a running gateway brings none of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import click
import pytest

from enginery.cli import cli
from enginery.cli.lazy import LazyGroup

DEADLINE = 60.0
GATEWAYS_OWN = {
    *("aiohttp.web", "enginery.coreserver", "enginery.engine.manager", "enginery.engine.scheduler"),
    *("enginery.gateway", "enginery.plugins", "enginery.settings", "importlib_metadata", "pluggy"),
    *("prometheus_client", "psutil", "pydantic", "pydantic_settings", "uvloop", "yaml"),
}
WATCH = """
import atexit, sys
watched = sys.argv.pop(1).split(",")
atexit.register(lambda: print("imported:", *(name for name in watched if name in sys.modules)))
sys.argv[0] = "enginery"
from enginery.cli import main
main()
"""


class Answers(BaseHTTPRequestHandler):
    """A gateway without engines that has one answer to everything."""

    def do_GET(self) -> None:
        body = b'{"engines": [], "data": [], "id": "m/default", "state": "ready"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def imported(watched: set[str], *argv: str, **environ: str) -> set[str]:
    """Those of ``watched`` that the command has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, ",".join(watched), *argv],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("imported:"), done.stdout
    return set(last.split()[1:])


@pytest.mark.parametrize(
    "argv",
    [
        ["models"],
        ["ps"],
        ["ps", "--json"],
        ["load", "m"],
        ["unload", "m"],
        ["logs", "m"],
        ["ps", "--help"],
    ],
    ids=" ".join,
)
def test_a_command_that_asks_a_gateway_imports_none_of_its_own(argv: list[str], url: str) -> None:
    watched = {*GATEWAYS_OWN, "enginery.cli.gateway_client"}
    assert imported(watched, *argv, ENGINERY_URL=url) == {"enginery.cli.gateway_client"}


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["config", "--help"]], ids=" ".join)
def test_help_and_version_import_no_command_at_all(argv: list[str]) -> None:
    watched = {*GATEWAYS_OWN, "aiohttp", "asyncio", "enginery.cli.session", "enginery.cli.lazy"}
    assert imported(watched, *argv) == {"enginery.cli.lazy"}


def groups(group: LazyGroup, path: str = "enginery") -> Iterator[tuple[str, str, click.Command]]:
    """Path, first sentence and command of everything that is imported late."""
    context = click.Context(group)
    for name, (_, sentence) in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", sentence, command
        if isinstance(command, LazyGroup):
            yield from groups(command, f"{path} {name}")


ALL = list(groups(cli))


@pytest.mark.parametrize(("path", "sentence", "command"), ALL, ids=[path for path, *_ in ALL])
def test_a_group_says_of_a_command_what_it_says_of_itself(path, sentence, command) -> None:
    assert command.name == path.split()[-1]
    assert command.get_short_help_str(1000) == sentence
