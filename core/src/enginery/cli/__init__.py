"""The ``enginery`` command. One file per group of commands; this one only puts them together.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no gateway there. What a command is for goes to stdout, everything else
(progress, logs, errors) to stderr.
"""

from __future__ import annotations

import os

import click

from enginery import __version__
from enginery.cli.config import config
from enginery.cli.demo import demo
from enginery.cli.doctor import doctor
from enginery.cli.engines import load, logs, models, ps, unload
from enginery.cli.plugin import plugin
from enginery.cli.plugins import plugins
from enginery.cli.run import run
from enginery.cli.serve import serve

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="enginery")
@click.pass_context
def cli(context: click.Context) -> None:
    """One address in front of every inference engine."""
    if os.environ.get("NO_COLOR"):
        context.color = False


cli.add_command(config)
cli.add_command(demo)
cli.add_command(doctor)
cli.add_command(load)
cli.add_command(logs)
cli.add_command(models)
cli.add_command(plugin)
cli.add_command(plugins)
cli.add_command(ps)
cli.add_command(run)
cli.add_command(serve)
cli.add_command(unload)


def main() -> None:
    """Entry point of the console script."""
    cli(prog_name="enginery")
