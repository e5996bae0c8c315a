"""``enginery plugin new``: a package to begin with, which works before a line is changed.

Knows: the files of a small plugin, around a server or around a backend in Python. Does not know: how plugins are
found or run; `docs/write-an-engine.md` explains what is written here.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from enginery import API_VERSION, __version__
from enginery.plugins import PluginRegistry

__all__ = ["package_files", "plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*")

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "enginery-{dashed}"
version = "0.1.0"
dependencies = ["enginery>={version},<1"]

[project.entry-points."enginery.engines"]
"{name}" = "{module}"

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]
"""

_README = """\
# enginery-{dashed}

The engine_type `{name}` for Enginery.

    pip install --editable .
    enginery plugins

and in a settings file

    models:
      my-model: {{engine: "{name}"}}
"""

_BACKEND = '''\
"""The engine_type {name}: a model in Python, behind the framework's own server."""

from enginery import GeneratorBackend, hookimpl

API_VERSION = {api}


def generate(request):
    """The reply, piece by piece, one per token. This one says back what it is told: put your model here.

    `request.prompt` is the whole prompt as text, `request.sampling_params` says how to sample. When the client
    leaves, this is closed at its next `yield`.
    """
    said = request.messages[-1]["content"] if request.messages else request.prompt
    for word in str(said).split():
        yield f"{{word}} "


@hookimpl
def create_backend(variant):
    """Called in a process of its own: load the model here, as `variant.options` says."""
    return GeneratorBackend(generate, slots=variant.parallel)
'''

_PLUGIN = '''\
"""The engine_type {name}: any program that answers OpenAI's routes at the endpoint."""

import sys

from enginery import Command, hookimpl


@hookimpl
def build_command(variant, endpoint):
    return Command([sys.executable, "-m", "{module}.server", endpoint.host, str(endpoint.port)])
'''

_SERVER = '''\
"""A server that says back what it is told: put yours in its place."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({{"status": "ok"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stream = asked.get("stream", False)
        said = {{"role": "assistant", "content": asked["messages"][-1]["content"]}}
        choice = {{"index": 0, "finish_reason": "stop", "delta" if stream else "message": said}}
        kind = "chat.completion.chunk" if stream else "chat.completion"
        self.reply({{"object": kind, "choices": [choice]}}, stream=stream)

    def reply(self, body, *, stream=False):
        text = json.dumps(body)
        data = (f"data: {{text}}\\n\\ndata: [DONE]\\n\\n" if stream else text).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
'''


def package_files(name: str, *, backend: bool) -> dict[str, str]:
    """Path to text of each file of a plugin for the engine_type ``name``.

    Args:
        name: lower-case letters, digits, dots, dashes and underscores.
        backend: around a function in Python; else around a server.
    """
    module = "enginery_" + re.sub(r"[.-]", "_", name)
    words = {
        "name": name,
        "module": module,
        "dashed": re.sub(r"[._]", "-", name),
        "version": ".".join(__version__.split(".")[:2]),
        "api": API_VERSION,
    }
    files = {"pyproject.toml": _PYPROJECT, "README.md": _README}
    if backend:
        files[f"src/{module}/__init__.py"] = _BACKEND
    else:
        files[f"src/{module}/__init__.py"] = _PLUGIN
        files[f"src/{module}/server.py"] = _SERVER
    return {path: text.format(**words) for path, text in files.items()}


@click.group()
def plugin() -> None:
    """Write engine plugins."""


@plugin.command()
@click.argument("name")
@click.option("--backend", is_flag=True, help="Around a function in Python, instead of a server.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write it; default: enginery-NAME here.",
)
def new(*, name: str, backend: bool, directory: Path | None) -> None:
    """Write a working plugin for the engine_type NAME, to begin with."""
    if not _NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r}: lower-case letters and digits, joined by dots, dashes or underscores",
            param_hint="NAME",
        )
    if name in {row.engine_type for row in PluginRegistry().rows()}:
        raise click.ClickException(f"an engine '{name}' is installed already: choose another name")
    files = package_files(name, backend=backend)
    folder = directory or Path(f"enginery-{re.sub('[._]', '-', name)}")
    if folder.exists() and any(folder.iterdir()):
        raise click.ClickException(f"{folder} is there already, and not empty")
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        click.echo(file)
    click.echo(f"next: pip install --editable {folder} && enginery plugins", err=True)
