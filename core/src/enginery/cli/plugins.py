"""``enginery plugins``: what is installed, whether it can be used, and why not."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import click

from enginery.cli.session import fail
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry, PluginRow, PluginState
from enginery.settings import load_settings

__all__ = ["plugins"]

_COLOURS = {PluginState.READY: "green", PluginState.BLOCKED: "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the hooks of each.")
@click.option("--config", "config_path", type=click.Path(dir_okay=False), help="Settings file.")
def plugins(*, as_json: bool, config_path: str | None) -> None:
    """List engine plugins: ready, broken, blocked, incompatible or duplicate, with the reason."""
    logging.getLogger("enginery.plugins").setLevel(logging.CRITICAL)  # the table says it all
    try:
        lists = load_settings(config_path).plugins
    except EngineryError as error:
        fail(error)
        return
    rows = PluginRegistry(lists.allow, lists.deny).rows()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    titles = ("ENGINE", "DISTRIBUTION", "VERSION", "API", "STATE", "HOOKS")
    table = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(titles))]
    for index, cells in enumerate(table):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        state = rows[index - 1].state if index else None
        click.echo(
            click.style(line.rstrip(), fg=None if state is None else _COLOURS.get(state, "red"))
        )
        if state is not None and rows[index - 1].reason:
            click.echo(f"    {rows[index - 1].reason}")


def _cells(row: PluginRow) -> tuple[str, ...]:
    api = "-" if row.api_version is None else ".".join(map(str, row.api_version))
    hooks = str(len(row.hooks)) if row.state is PluginState.READY else "-"
    return (row.engine_type, row.distribution, row.version, api, str(row.state), hooks)
