"""``enginery demo``: a gateway in front of every installed engine with something to show.

Knows: the lines that a newcomer can paste. On a terminal it prints them and serves until Ctrl-C; without one, as in
CI, it runs them itself, word for word as printed, and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import click

from enginery.cli.demo_models import add_demo_models
from enginery.cli.loops import loop_option
from enginery.cli.progress import Progress, follow
from enginery.cli.session import run_async, set_up_logging
from enginery.engine.manager import EngineManager
from enginery.errors import ConfigError, EngineryError, PluginError
from enginery.gateway import Gateway
from enginery.settings import Settings

__all__ = ["demo"]

PROMPT = "List objects are"
TOKENS = 60
PATIENCE = 300.0
"""Seconds for one line, its engines' loads included."""

_CLIENT = "openai"
"""A library of clients: shown where it is installed, never needed."""

_SDK = """\
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="none")
for model in {models}:
    chat = client.chat.completions.create(
        model=model,
        max_tokens={tokens},
        temperature=0,
        messages=[{{"role": "user", "content": {prompt}}}],
    )
    print(model + ":", chat.choices[0].message.content)
"""


@dataclass(frozen=True, slots=True)
class Line:
    """Something to paste: a command, and why it could not be run here, if so."""

    title: str
    argv: Sequence[str]
    missing: str | None = None


@click.command()
@click.option("--prompt", default=PROMPT, show_default=True, help="What the engines are asked.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="TCP port; another one where it is taken.",
)
@click.option("-v", "--verbose", count=True, help="Show states; twice: the engines' output too.")
@loop_option
@run_async
async def demo(*, prompt: str, port: int, verbose: int) -> None:
    """Serve every engine that has a demo at one address, and show how to ask: until Ctrl-C.

    Without a terminal the printed lines are run, and that is all.
    """
    set_up_logging(verbose)
    manager = EngineManager(Settings())
    names = [variant.model for variant in add_demo_models(manager)]
    if not names:
        raise PluginError("no installed engine has a demo; `enginery plugins` lists them")
    async with manager:
        gateway = await _open(manager, port)
        showing = asyncio.create_task(follow(manager.subscribe(), Progress(sys.stdout)))
        try:
            lines = _lines(gateway.base_url, names, prompt)
            _introduce(gateway.base_url, names, lines)
            if sys.stdin.isatty() and sys.stdout.isatty():
                click.echo("\nServing until Ctrl-C.")
                with suppress(asyncio.CancelledError):  # which is how this is meant to end
                    await asyncio.Event().wait()
            else:
                for line in lines:
                    await _run(line)
        finally:
            showing.cancel()
            await gateway.stop()


async def _open(manager: EngineManager, port: int) -> Gateway:
    """A gateway that listens on ``port``, or on a free one."""
    gateway = Gateway(manager, port=port)
    try:
        await gateway.start()
    except ConfigError as error:
        click.echo(f"{error.message}; another port is taken", err=True)
        gateway = Gateway(manager, port=0)
        await gateway.start()
    return gateway


def _lines(url: str, names: Sequence[str], prompt: str) -> list[Line]:
    body = json.dumps(
        {
            "model": names[0],
            "max_tokens": TOKENS,
            "temperature": 0,  # the small model recites: drawn by lot, its words are nonsense
            "messages": [{"role": "user", "content": prompt}],
        }
    )
    curl = ["curl", "-sS", "--fail-with-body", f"{url}/v1/chat/completions"]
    curl += ["-H", "Content-Type: application/json", "-d", body]
    program = _SDK.format(
        url=url, models=json.dumps(names), tokens=TOKENS, prompt=json.dumps(prompt)
    )
    return [
        Line("curl", curl, None if shutil.which("curl") else "there is no curl"),
        Line(
            "OpenAI's SDK",
            [sys.executable, "-c", program],
            None if find_spec(_CLIENT) else f"{_CLIENT} is not installed",
        ),
    ]


def _introduce(url: str, names: Sequence[str], lines: Sequence[Line]) -> None:
    click.secho(f"Enginery serves {' and '.join(names)} at {url}", bold=True)
    click.echo(
        f"Dashboard: {url}/ui\n\nOne address for all of them; a request loads what it needs:"
    )
    for line in lines:
        click.secho(f"\n# {line.title}", dim=True)
        click.echo(shlex.join(line.argv))
    sys.stdout.flush()


async def _run(line: Line) -> None:
    """Run it as it was printed, and print what comes.

    Raises:
        EngineryError: it failed.
    """
    if line.missing is not None:
        click.echo(f"\n# {line.title}: NOT RUN: {line.missing}")
        return
    click.secho(f"\n# {line.title} says", dim=True)
    sys.stdout.flush()
    child = await asyncio.create_subprocess_exec(
        *line.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await child.communicate()
    except TimeoutError:
        raise EngineryError(f"{line.title}: no answer in {PATIENCE:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    click.echo(said.decode("utf-8", "replace").rstrip())
    if child.returncode:
        raise EngineryError(f"{line.title} left with {child.returncode}")
