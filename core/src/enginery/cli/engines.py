"""``models``, ``ps``, ``load``, ``unload`` and ``logs``: what a running gateway has, and what it does with it.

Knows: what of a gateway's answers people want to see. Does not know: how it is asked (`gateway_client`), or engines.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import click

from enginery.cli.gateway_client import GatewayClient, GatewayUnreachable, gateway_options
from enginery.cli.progress import Progress, follow
from enginery.cli.session import ask_async
from enginery.cli.tables import duration, plain, size, table
from enginery.errors import EngineryError
from enginery.values import JSONObject

__all__ = ["load", "logs", "models", "ps", "unload"]

_COLOURS = {
    "ready": "green",
    "loaded": "green",
    "starting": "yellow",
    "loading": "yellow",
    "waking": "yellow",
    "draining": "yellow",
    "failed": "red",
    "leaked": "red",
    "unreachable": "red",
}
_UP_AND_CLEAR = "\x1b[H\x1b[2J"

as_json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@as_json_option
@gateway_options
@ask_async
async def models(*, as_json: bool, url: str | None, api_key: str | None) -> None:
    """List the models of a running gateway."""
    async with GatewayClient(url, api_key) as gateway:
        found = (await gateway.get("/v1/models"))["data"]
    if as_json:
        _print_json(found)
        return
    rows = [
        (
            card["id"],
            card["state"],
            "-" if card.get("context_length") is None else str(card["context_length"]),
            ", ".join(card.get("aliases", ())) or "-",
        )
        for card in found
    ]
    states = [_COLOURS.get(card["state"]) for card in found]
    click.echo(table(("MODEL", "STATE", "CONTEXT", "ALIASES"), rows, states))


@click.command()
@as_json_option
@click.option(
    "-w", "--watch", is_flag=True, help="Go on, whenever something has changed, until Ctrl-C."
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks with --watch.",
)
@gateway_options
@ask_async
async def ps(
    *, as_json: bool, watch: bool, interval: float, url: str | None, api_key: str | None
) -> None:
    """List the engines of a running gateway: states, requests, memory.

    RESTARTS counts starts after a failure, no swaps. With --watch a terminal is drawn anew each time; else each
    change is printed, as JSON on a line of its own.
    """
    live = watch and not as_json and sys.stdout.isatty()
    before: Any = None
    async with GatewayClient(url, api_key) as gateway:
        while True:
            found = (await gateway.get("/api/engines"))["engines"]
            if live:
                click.echo(_UP_AND_CLEAR + _engines(found))
            elif _steady(found) != before:
                if as_json:
                    click.echo(json.dumps(found, indent=None if watch else 2))
                else:
                    click.echo(_engines(found))
            before = _steady(found)
            sys.stdout.flush()
            if not watch:
                return
            await asyncio.sleep(interval)


@click.command()
@click.argument("model")
@click.option("--variant", help="One variant of it; default: as the gateway sees fit.")
@as_json_option
@gateway_options
@ask_async
async def load(
    *, model: str, variant: str | None, as_json: bool, url: str | None, api_key: str | None
) -> None:
    """Load MODEL in a running gateway, and wait until it is ready."""
    async with GatewayClient(url, api_key) as gateway, _progress(gateway):
        body = {} if variant is None else {"variant": variant}
        row = await gateway.post(gateway.model_path(model, "load"), body)
    _done(row, as_json=as_json)


@click.command()
@click.argument("model")
@click.option("--variant", help="One variant of it; default: all.")
@click.option("--now", is_flag=True, help="Do not wait for its open requests: they fail.")
@as_json_option
@gateway_options
@ask_async
async def unload(
    *,
    model: str,
    variant: str | None,
    now: bool,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Stop MODEL's engines in a running gateway, once their open requests are done."""
    async with GatewayClient(url, api_key) as gateway, _progress(gateway):
        body: JSONObject = {"drain": not now, **({} if variant is None else {"variant": variant})}
        row = await gateway.post(gateway.model_path(model, "unload"), body)
    _done(row, as_json=as_json)


@click.command()
@click.argument("model")
@click.option(
    "-f", "--follow", "follows", is_flag=True, help="Go on with what it prints, until Ctrl-C."
)
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 1000),
    default=100,
    show_default=True,
    help="So many of its last lines.",
)
@gateway_options
@ask_async
async def logs(
    *, model: str, follows: bool, lines: int, url: str | None, api_key: str | None
) -> None:
    """Print what MODEL's engines in a running gateway printed."""
    async with GatewayClient(url, api_key) as gateway:
        path = f"{gateway.model_path(model, 'logs')}?lines={lines}&follow={int(follows)}"
        clean = plain if sys.stdout.isatty() else str
        async with aclosing(gateway.lines(path)) as printed:
            async for line in printed:
                click.echo(clean(line))


# -- inside ------------------------------------------------------------------------------------


@asynccontextmanager
async def _progress(gateway: GatewayClient) -> AsyncIterator[None]:
    """Show what happens meanwhile, where the gateway tells us."""
    progress = Progress()

    async def show() -> None:
        with suppress(GatewayUnreachable, EngineryError):
            await follow(gateway.events(), progress)

    showing = asyncio.create_task(show())
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        progress.close()


def _done(row: JSONObject, *, as_json: bool) -> None:
    if as_json:
        _print_json(row)
    else:
        click.echo(f"{plain(row['id'])} is {row['state']}")


def _print_json(found: Any) -> None:
    click.echo(json.dumps(found, indent=2))


def _engines(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no engine was started yet"
    cells = [
        (
            row["id"],
            row["engine"],
            row["state"],
            str(row["pid"] or "-"),
            str(row["address"] or "-"),
            str(row["in_flight"]),
            str(row["queued"]),
            _memory(row["memory"]),
            duration(row["idle_s"]),
            duration(row["ttl_left_s"]),
            str(row["restarts"]),
        )
        for row in rows
    ]
    titles = [
        "ID",
        "ENGINE",
        "STATE",
        "PID",
        "ADDRESS",
        "ACTIVE",
        "QUEUED",
        "MEMORY",
        "IDLE",
        "TTL",
        "RESTARTS",
    ]
    drawn = table(titles, cells, [_COLOURS.get(row["state"]) for row in rows])
    errors = [
        f"{plain(row['id'])}: {plain(row['last_error'].splitlines()[0])}"
        for row in rows
        if row["last_error"] and row["state"] in {"failed", "leaked", "unreachable"}
    ]
    return "\n".join([drawn, *errors])


def _memory(held: Mapping[str, int] | None) -> str:
    if not held:
        return "-"
    return " ".join(f"{device}:{size(count)}" for device, count in held.items())


def _steady(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without what changes with every second."""
    return [
        {
            key: value
            for key, value in row.items()
            if key not in {"idle_s", "ttl_left_s", "retry_in_s"}
        }
        for row in rows
    ]
