"""The command, imported once and run by many tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from support.command_line import CommandLine


@pytest.fixture(scope="session")
def command_line(tmp_path_factory) -> Iterator[CommandLine]:
    with CommandLine(tmp_path_factory.mktemp("client")) as command_line:
        yield command_line


@pytest.fixture
def enginery(command_line, tmp_path):
    """Runs the command in an empty directory; returns its `Done`."""
    return partial(command_line, directory=tmp_path)
