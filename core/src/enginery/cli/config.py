"""``enginery config``: the group; its commands are imported when they are used."""

from __future__ import annotations

import click

from enginery.cli.lazy import LazyGroup

__all__ = ["config"]

_COMMANDS = {
    "check": (
        "enginery.cli.config_file:check",
        "Check the settings file at PATH, or the one that would be used; print every problem.",
    ),
    "import": (
        "enginery.cli.config_import:import_",
        "Make a settings file from another program's configuration.",
    ),
    "plan": (
        "enginery.cli.reload:plan",
        "Show what a running gateway would change if it read its settings file now; nothing is changed.",
    ),
    "reload": (
        "enginery.cli.reload:reload",
        "Have a running gateway read its settings file again; a file that is wrong changes nothing.",
    ),
    "schema": (
        "enginery.cli.config_file:schema",
        "Print the JSON schema of the settings file, for editors; engines' own options are not in it.",
    ),
    "show": (
        "enginery.cli.config_file:show",
        "Print the settings of PATH, or of the file that would be used, as they count.",
    ),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def config() -> None:
    """The settings file."""
