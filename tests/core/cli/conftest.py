"""The command in a directory of a test's own."""

from __future__ import annotations

from functools import partial

import pytest


@pytest.fixture
def enginery(command_line, tmp_path):
    """Runs the command in an empty directory; returns its `Done`."""
    return partial(command_line, directory=tmp_path)
