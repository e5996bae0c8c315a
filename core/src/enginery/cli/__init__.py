"""The ``enginery`` command. One file per group of commands; this one only puts them together.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no gateway there. What a command is for goes to stdout, everything else
(progress, logs, errors) to stderr. Each command's file is imported when the command is used.
"""

from __future__ import annotations

import os

import click

from enginery import __version__
from enginery.cli.lazy import LazyGroup

__all__ = ["cli", "main"]

_COMMANDS = {
    "config": ("enginery.cli.config:config", "The settings file."),
    "demo": (
        "enginery.cli.demo:demo",
        "Serve every engine that has a demo at one address, and show how to ask: until Ctrl-C.",
    ),
    "doctor": (
        "enginery.cli.doctor:doctor",
        "Check this machine: processes, limits, ports, memory, settings and plugins.",
    ),
    "load": (
        "enginery.cli.engines:load",
        "Load MODEL in a running gateway, and wait until it is ready.",
    ),
    "logs": (
        "enginery.cli.engines:logs",
        "Print what MODEL's engines in a running gateway printed.",
    ),
    "models": ("enginery.cli.engines:models", "List the models of a running gateway."),
    "plugin": ("enginery.cli.plugin:plugin", "Write engine plugins."),
    "plugins": (
        "enginery.cli.plugins:plugins",
        "List engine plugins: ready, broken, blocked, incompatible or duplicate, with the reason.",
    ),
    "ps": (
        "enginery.cli.engines:ps",
        "List the engines of a running gateway: states, requests, memory.",
    ),
    "run": (
        "enginery.cli.run:run",
        "Chat with MODEL: a name of the settings file, or the path of a model file.",
    ),
    "serve": (
        "enginery.cli.serve:serve",
        "Serve models at one address: those of the settings file CONFIG (or of --config), or the file MODEL.",
    ),
    "unload": (
        "enginery.cli.engines:unload",
        "Stop MODEL's engines in a running gateway, once their open requests are done.",
    ),
}


@click.group(
    cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="enginery")
@click.pass_context
def cli(context: click.Context) -> None:
    """One address in front of every inference engine."""
    if os.environ.get("NO_COLOR"):
        context.color = False


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="enginery")
