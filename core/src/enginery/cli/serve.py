"""``enginery serve``: the gateway, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import os

import click

from enginery.cli.log_secrets import hide_in_logs
from enginery.cli.notify import Notifier
from enginery.cli.session import run_async, set_up_logging, settings_options
from enginery.engine.manager import EngineManager
from enginery.gateway import Gateway
from enginery.gateway.access import check_exposure
from enginery.gateway.limits import raise_file_limit
from enginery.settings import load_settings
from enginery.settings.secrets import secrets_of

__all__ = ["serve"]


@click.command()
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option("--host", help="Address to listen on; default: `server.host`.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="TCP port; default: `server.port`; 0: any."
)
@settings_options
@run_async
async def serve(
    *,
    config: str | None,
    host: str | None,
    port: int | None,
    config_path: str | None,
    verbose: int,
) -> None:
    """Serve the models of the settings file CONFIG (or of --config) at one address.

    SIGINT or SIGTERM: open requests may finish, then engines stop; a second one ends at once.
    """
    set_up_logging(max(1, verbose))
    if config is not None and config_path is not None:
        raise click.UsageError("give the settings file once, as CONFIG or with --config")
    settings = load_settings(config or config_path)
    hide_in_logs(secrets_of(settings))
    raise_file_limit()
    notifier = Notifier.take_from(os.environ)
    manager = EngineManager(settings)
    manager.catalog.check_all()
    server = settings.server
    check_exposure(server.model_copy(update={"host": host or server.host}))
    async with manager, Gateway(manager, host=host, port=port) as gateway:
        _spare_the_collector()
        status = f"{_several(len(settings.models))} at {gateway.base_url}"
        click.echo(f"Serving {status}", err=True)
        async with notifier.serving(status):
            await asyncio.Event().wait()


def _spare_the_collector() -> None:
    """What lives as long as the gateway is not walked again and again.

    Measured: 64 connections of small requests spend a tenth less.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def _several(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
