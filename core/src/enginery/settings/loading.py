"""Finding the settings file and reading everything that says something: file, environment, flags.

Knows: where files are looked for, and in which order sources win. Does not know: what a setting may
be. This is the only place that reads a file or the process's environment, and only when called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from enginery.errors import ConfigError
from enginery.settings.document import read_document
from enginery.settings.environment import read_environment
from enginery.settings.places import Layer, Place, marks_of
from enginery.settings.schema import Settings
from enginery.settings.secrets import read_secret_files

__all__ = ["CONFIG_VARIABLE", "FILE_NAME", "load_settings", "read_layers", "search_path"]

CONFIG_VARIABLE = "ENGINERY_CONFIG"
FILE_NAME = "enginery.yaml"


def load_settings(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings from flags, environment, file and defaults; the first that says something wins.

    Args:
        path: the file (``--config``). None: ``$ENGINERY_CONFIG``, else the first that exists of
            `search_path`; none of those is fine.
        overrides: what the command line says, nested like the file; only what was really given.
        environ: variables; None is the process's own.

    Raises:
        ConfigError: the named file cannot be read; or something is wrong in what was read, one line
            each with its place.
    """
    layers, file = read_layers(path, overrides, environ)
    return Settings(_read=layers, _file=file)


def read_layers(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[list[Layer], Path | None]:
    """What `load_settings` reads, the highest first, each with what is wrong with its form; and the file, if any.

    Raises:
        ConfigError: the named file cannot be read.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get(CONFIG_VARIABLE)
    file = Path(named) if named else next(filter(Path.is_file, search_path(environ)), None)
    flags = deepcopy(dict(overrides or {}))  # files of secrets are filled in
    flag_layer = Layer(flags, marks_of(flags, Place("command line")))
    file_layer = Layer()
    if file is not None:
        file_layer = read_document(_text(file), str(file), environ)
    environment = read_environment(environ, file_layer.values)
    layers = [flag_layer, environment, file_layer]
    for layer in layers:
        read_secret_files(layer)
    return layers, file


def search_path(environ: Mapping[str, str], platform: str = sys.platform) -> Iterator[Path]:
    """Where a settings file is looked for when none is named, in this order.

    The working directory; the user's configuration directory (``$XDG_CONFIG_HOME``, else
    ``~/.config``; on macOS ``~/Library/Application Support``); ``/etc``.
    """
    yield Path(FILE_NAME)
    home = environ.get("HOME")
    if environ.get("XDG_CONFIG_HOME"):
        yield Path(environ["XDG_CONFIG_HOME"]) / "enginery" / FILE_NAME
    elif home and platform == "darwin":
        yield Path(home) / "Library" / "Application Support" / "enginery" / FILE_NAME
    elif home:
        yield Path(home) / ".config" / "enginery" / FILE_NAME
    yield Path("/etc/enginery") / FILE_NAME


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8, at byte {error.start}", param="config") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{file}: cannot be read: {reason}", param="config") from error
