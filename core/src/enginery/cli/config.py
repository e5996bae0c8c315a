"""``enginery config``: is the settings file right, what does it say, and one made from another program's.

What a running gateway would make of it is `reload`'s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from enginery.cli.reload import plan, reload
from enginery.cli.session import fail
from enginery.engine.catalog import Catalog
from enginery.engine.preflight import startable
from enginery.errors import ConfigError, EngineryError
from enginery.importing import as_yaml, import_llama_swap
from enginery.plugins import PluginRegistry
from enginery.settings import Settings, config_error, load_settings
from enginery.settings.document import read_document
from enginery.settings.secrets import Redactor, secrets_of, shown

__all__ = ["config"]


@click.group()
def config() -> None:
    """The settings file."""


@config.command()
@click.argument("path", required=False, type=click.Path(dir_okay=False))
def check(path: str | None) -> None:
    """Check the settings file at PATH, or the one that would be used; print every problem.

    Plugins' options are checked too, so the plugins of the engines in use are loaded. A right file is right on
    other machines, too: what this one lacks to start an engine is told on stderr, after a look at files alone;
    `enginery doctor` looks further.
    """
    try:
        settings = load_settings(path)
        registry = PluginRegistry(settings.plugins.allow, settings.plugins.deny)
        catalog = Catalog(settings, registry)
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
    for variant in catalog.variants().values():
        if variant.attached:
            continue
        try:
            startable(registry.hooks(variant.engine_type), variant)
        except EngineryError as error:
            click.secho(f"cannot start on this machine: {error.message}", fg="yellow", err=True)


@config.command()
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


@config.command()
def schema() -> None:
    """Print the JSON schema of the settings file, for editors; engines' own options are not in it."""
    click.echo(json.dumps(Settings.model_json_schema(), indent=2))


config.add_command(plan)
config.add_command(reload)


@config.group("import")
def import_() -> None:
    """Make a settings file from another program's configuration."""


@import_.command("llama-swap")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the settings go, a file that is not there yet; default: stdout.",
)
def llama_swap(file: Path, output: Path | None) -> None:
    """Turn llama-swap's FILE into settings of ours.

    What could not be carried over is told on stderr, a line each, with its place and the reason. Nothing
    is started and no variable is read: `${env.NAME}` stays as it is.
    """
    try:
        layer = read_document(file.read_text("utf-8-sig"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        fail(ConfigError(f"{file}: cannot be read: {error}", param="file"))
        return
    if layer.problems:
        fail(config_error(layer.problems, layer.marks))
    imported = import_llama_swap(layer.values)
    text = as_yaml(imported.settings)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            with output.open("x", encoding="utf-8") as target:
                target.write(text)
        except OSError as error:
            fail(ConfigError(f"{output}: cannot be written: {error.strerror}", param="output"))
    if imported.remarks:
        click.echo(config_error(imported.remarks, layer.marks).message, err=True)
    count = len(imported.settings["models"])
    click.echo(
        f"{count} model{'' if count == 1 else 's'}; "
        f"{len(imported.remarks)} remark{'' if len(imported.remarks) == 1 else 's'}",
        err=True,
    )
