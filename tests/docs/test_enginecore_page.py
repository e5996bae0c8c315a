"""The programs of docs/enginecore.md run, and say the same whatever client they use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enginery.enginecore import EngineCoreClient

PAGE = Path(__file__).parents[2] / "docs" / "enginecore.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILE.findall(PAGE.read_text()):
        (folder / name).write_text(text)
    return folder


def printed(folder: Path, program: str) -> str:
    """What it prints, run from somewhere else, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(folder / program)],
        cwd=os.sep,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_sync_and_async_programs_print_the_same_tokens(folder) -> None:
    programs = ("in_process.py", "in_a_child.py", "from_a_loop.py")
    said = [printed(folder, program) for program in programs]
    assert said[0] == said[1] == said[2]
    lines = said[0].splitlines()
    assert len(lines) == 8
    assert lines[-1].endswith("length")


def test_a_backend_beside_the_program_is_found_by_the_child(folder) -> None:
    assert printed(folder, "shout.py") == "MIND!! THE!! GAP!! \n"


def test_the_pages_table_has_every_method() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)\(", "".join(rows)))
    methods = {
        name.removesuffix("_async")
        for name in vars(EngineCoreClient)
        if name.endswith("_async") and name != "has_async"
    }
    assert methods <= named
