"""``enginery config``: is the settings file right, and where is it wrong."""

from __future__ import annotations

import click

from enginery.cli.session import fail
from enginery.engine.catalog import Catalog
from enginery.errors import EngineryError
from enginery.plugins import PluginRegistry
from enginery.settings import load_settings

__all__ = ["config"]


@click.group()
def config() -> None:
    """The settings file."""


@config.command()
@click.argument("path", required=False, type=click.Path(dir_okay=False))
def check(path: str | None) -> None:
    """Check the settings file at PATH, or the one that would be used; print every problem.

    Plugins' options are checked too, so the plugins of the engines in use are loaded.
    """
    try:
        settings = load_settings(path)
        catalog = Catalog(settings, PluginRegistry(settings.plugins.allow, settings.plugins.deny))
        catalog.check_all()
    except EngineryError as error:
        fail(error)
        return
    models = settings.models
    click.echo(f"ok: {len(models)} model{'' if len(models) == 1 else 's'}")
    for name in models:
        entry = catalog.resolve(name)
        for variant in entry.variants:
            size = "engine's own" if variant.context_length is None else str(variant.context_length)
            click.echo(f"  {variant.id}  {variant.engine_type}  context {size}")
