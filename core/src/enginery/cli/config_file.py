"""``enginery config check``, ``show`` and ``schema``: is the settings file right, what does it say, what may it say.

Knows: how findings are shown. Does not know: what a running gateway would make of the file; that is `reload`'s.
"""

from __future__ import annotations

import json
from typing import Any

import click

from enginery.cli.session import fail
from enginery.engine.catalog import Catalog
from enginery.engine.preflight import startable
from enginery.errors import EngineryError
from enginery.importing import as_yaml
from enginery.plugins import PluginRegistry
from enginery.settings import Settings, config_error, load_settings
from enginery.settings.secrets import Redactor, secrets_of, shown
from enginery.settings.survey import survey

__all__ = ["check", "schema", "show"]


@click.command()
@click.argument("path", required=False, type=click.Path(dir_okay=False))
def check(path: str | None) -> None:
    """Check the settings file at PATH, or the one that would be used; print every problem.

    Plugins' options are checked too, so the plugins of the engines in use are loaded. What is wrong is set aside and
    the rest looked at again, so that one look is enough. A right file is right on other machines, too: what this
    one lacks to start an engine is told on stderr, after a look at files alone; `enginery doctor` looks further.
    """
    try:
        found = survey(path)
    except EngineryError as error:
        fail(error)
        return
    settings, problems = found.settings, list(found.problems)
    if settings is not None and found.knows_plugins:
        registry = PluginRegistry(settings.plugins.allow, settings.plugins.deny)
        catalog = Catalog(settings, registry)
        problems += filter(found.is_certain, catalog.problems())
    if problems or settings is None:
        fail(config_error(problems, found.marks))
        return
    models = settings.models
    click.echo(f"ok: {len(models)} model{'' if len(models) == 1 else 's'}")
    for name in models:
        entry = catalog.resolve(name)
        for variant in entry.variants:
            size = "engine's own" if variant.context_length is None else str(variant.context_length)
            click.echo(f"  {variant.id}  {variant.engine_type}  context {size}")
    for variant in catalog.variants().values():
        if variant.attached:
            continue
        try:
            startable(registry.hooks(variant.engine_type), variant)
        except EngineryError as error:
            click.secho(f"cannot start on this machine: {error.message}", fg="yellow", err=True)


@click.command()
@click.argument("path", required=False, type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(path: str | None, *, as_json: bool) -> None:
    """Print the settings of PATH, or of the file that would be used, as they count.

    Environment variables and defaults are filled in. Secrets are not shown: one that came from a variable or a
    file is printed as it was written.
    """
    try:
        settings = load_settings(path)
    except EngineryError as error:
        fail(error)
        return
    values: dict[str, Any] = shown(settings)
    text = json.dumps(values, indent=2, ensure_ascii=False) if as_json else as_yaml(values)
    click.echo(Redactor(secrets_of(settings))(text).rstrip())
    source = "no settings file; defaults" if settings.file is None else str(settings.file)
    click.echo(f"from {source}", err=True)


@click.command()
def schema() -> None:
    """Print the JSON schema of the settings file, for editors; engines' own options are not in it."""
    click.echo(json.dumps(Settings.model_json_schema(), indent=2))
