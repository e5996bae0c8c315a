"""``enginery serve``: the gateway, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import os
from functools import partial
from pathlib import Path

import click

from enginery.cli.demo_models import add_demo_models
from enginery.cli.log_secrets import hide_in_logs
from enginery.cli.loops import loop_option
from enginery.cli.notify import Notifier
from enginery.cli.reloads import reloads
from enginery.cli.session import run_async, set_up_logging, settings_options
from enginery.engine.manager import EngineManager
from enginery.gateway import Gateway
from enginery.gateway.access import check_exposure
from enginery.gateway.limits import raise_file_limit
from enginery.settings import load_settings
from enginery.settings.secrets import secrets_of

__all__ = ["serve"]


SETTINGS_SUFFIXES = frozenset({"", ".yaml", ".yml", ".json"})
"""A path that ends otherwise is a model's."""


@click.command()
@click.argument("path", metavar="[CONFIG|MODEL]", required=False, type=click.Path(dir_okay=False))
@click.option("--host", help="Address to listen on; default: `server.host`.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="TCP port; default: `server.port`; 0: any."
)
@click.option("--watch", is_flag=True, help="Read the settings file again whenever it has changed.")
@loop_option
@settings_options
@run_async
async def serve(
    *,
    path: str | None,
    host: str | None,
    port: int | None,
    watch: bool,
    config_path: str | None,
    verbose: int,
) -> None:
    """Serve models at one address: those of the settings file CONFIG (or of --config), or the file MODEL.

    MODEL, such as x.gguf, is served beside what the settings say. Without any argument, and where no settings
    file is found, the demo models are served.

    SIGHUP reads the settings file again: what is wrong changes nothing; what is right changes only the
    engines that differ. SIGINT or SIGTERM: open requests may finish, then engines stop; a second one
    ends at once.
    """
    set_up_logging(max(1, verbose))
    file, model = _told_apart(path)
    if file is not None and config_path is not None:
        raise click.UsageError("give the settings file once, as CONFIG or with --config")
    read = partial(load_settings, file or config_path)
    settings = read()
    if watch and settings.file is None:
        raise click.UsageError("--watch needs a settings file, and there is none")
    hide_in_logs(secrets_of(settings))
    raise_file_limit()
    notifier = Notifier.take_from(os.environ)
    manager = EngineManager(settings)
    manager.catalog.check_all()
    _add_models(manager, model)
    server = settings.server
    check_exposure(server.model_copy(update={"host": host or server.host}))
    async with manager, Gateway(manager, host=host, port=port, read_settings=read) as gateway:
        _spare_the_collector()
        names = manager.catalog.names()
        status = f"{_several(len(names))} at {gateway.base_url}"
        watched = settings.file if watch else None
        # a SIGHUP is understood before anybody is told that it may be sent
        async with reloads(gateway, notifier, status, watched), notifier.serving(status):
            click.echo(f"Serving {status}", err=True)
            if settings.file is None:
                click.echo(f"No settings file; models: {', '.join(names) or 'none'}", err=True)
            await asyncio.Event().wait()


def _told_apart(path: str | None) -> tuple[str | None, str | None]:
    """A settings file, or a model's; one of them is None."""
    if path is None or Path(path).suffix.lower() in SETTINGS_SUFFIXES:
        return path, None
    if not Path(path).is_file():
        raise click.UsageError(f"there is no file {path}")
    return None, path


def _add_models(manager: EngineManager, model: str | None) -> None:
    settings = manager.settings
    if model is not None:
        manager.catalog.from_path(model)
    elif settings.file is None and not settings.models:
        add_demo_models(manager)


def _spare_the_collector() -> None:
    """What lives as long as the gateway is not walked again and again.

    Measured: 64 connections of small requests spend a tenth less.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def _several(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"
