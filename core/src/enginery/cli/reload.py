"""``enginery config plan`` and ``config reload``: what other settings would change, and the changing.

Knows: how changes are shown. Does not know: how they come about: the gateway says so, or, for two files, the engine
room's own comparison.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import click

from enginery.cli.gateway_client import GatewayClient, gateway_options
from enginery.cli.session import ask_async
from enginery.cli.tables import plain
from enginery.values import JSONObject

__all__ = ["plan", "reload"]

_SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "restarted": ("!", "yellow")}
_ADJUSTED = ("~", None)


@click.command()
@click.argument("old", required=False, type=click.Path(dir_okay=False))
@click.argument("new", required=False, type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@gateway_options
@ask_async
async def plan(
    *, old: str | None, new: str | None, as_json: bool, url: str | None, api_key: str | None
) -> None:
    """Show what a running gateway would change if it read its settings file now; nothing is changed.

    With OLD and NEW no gateway is asked: what one that runs with OLD would change for NEW.
    """
    if old is not None and new is None:
        raise click.UsageError("give both OLD and NEW, or none to ask the gateway")
    if old is not None and new is not None:
        changes = _compared(old, new)
    else:
        async with GatewayClient(url, api_key) as gateway:
            changes = await gateway.get("/api/config/plan")
    _show(changes, as_json=as_json)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@gateway_options
@ask_async
async def reload(*, as_json: bool, url: str | None, api_key: str | None) -> None:
    """Have a running gateway read its settings file again; a file that is wrong changes nothing."""
    async with GatewayClient(url, api_key) as gateway:
        changes = await gateway.post("/api/config/reload")
    _show(changes, as_json=as_json)


def _compared(old: str, new: str) -> JSONObject:
    # who asks a gateway pays for none of these
    from enginery.engine.catalog import Catalog
    from enginery.engine.reload import make_plan
    from enginery.gateway.reloading import changes_as_json
    from enginery.plugins import PluginRegistry
    from enginery.settings import load_settings

    before, after = load_settings(old), load_settings(new)
    registry = PluginRegistry(before.plugins.allow, before.plugins.deny)
    found = make_plan(after, before, Catalog(before, registry), registry).changes
    return changes_as_json(found, before, after)


def _show(changes: JSONObject, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(changes, indent=2))
        return
    for line, colour in _lines(changes):
        click.echo(click.style(line, fg=colour) if colour else line)


def _lines(changes: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    if not (changes["settings"] or changes["variants"]):
        yield "nothing changes", None
    for change in changes["variants"]:
        sign, colour = _SIGNS.get(change["fate"], _ADJUSTED)
        fields = f" ({', '.join(change['fields'])})" if change["fields"] else ""
        yield f"{sign} {plain(change['id'])} {change['fate']}{fields}", colour
        if change["before"] != change["after"]:
            for argv, mark in ((change["before"], "-"), (change["after"], "+")):
                if argv:
                    yield f"    {mark} {plain(shlex.join(argv))}", None
        if change["problem"]:
            yield f"    it would not start: {plain(change['problem'])}", "red"
    for change in changes["settings"]:
        yield (
            f"  {plain(change['path'])}: {plain(change['before'])} → {plain(change['after'])}",
            None,
        )
    for path in changes["later"]:
        yield f"only at the next start: {plain(path)}", "yellow"
