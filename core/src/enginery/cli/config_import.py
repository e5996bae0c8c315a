"""``enginery config import``: a settings file made from another program's configuration.

Knows: files in and out, and how losses are told. Does not know: what another program's keys mean (`importing`).
"""

from __future__ import annotations

from pathlib import Path

import click

from enginery.cli.session import fail
from enginery.errors import ConfigError
from enginery.importing import as_yaml, import_llama_swap
from enginery.settings import config_error
from enginery.settings.document import read_document

__all__ = ["import_"]


@click.group("import")
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
