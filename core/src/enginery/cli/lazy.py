"""A group whose commands are imported when they are used: asking a gateway for its engines needs no gateway of one's own.

Knows: where each command is, and its one line in the group's help, which imports nothing either. Does not know: what
any of them does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A `click.Group` with commands that are not there yet.

    Args:
        lazy: by a command's name, where it is (``module:attribute``), and the first sentence of its help.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, those of commands that are not there yet among them."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now at the latest."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            module, _, attribute = self.lazy[cmd_name][0].partition(":")
            self.add_command(getattr(import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's own, from what is known without importing anything."""
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self._line(name).get_short_help_str(room)) for name in names]
            )

    def _line(self, name: str) -> click.Command:
        return (
            click.Command(name, help=self.lazy[name][1])
            if name in self.lazy
            else self.commands[name]
        )
