"""The programs of docs/streaming.md run as printed, and say the same in all three ways."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from enginery.streaming import StreamingEngine

PAGE = Path(__file__).parents[2] / "docs" / "streaming.md"
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


def test_the_three_ways_print_the_same(folder) -> None:
    said = [printed(folder, name) for name in ("callback.py", "iterator.py", "batches.py")]
    assert said[0] == said[1] == said[2]
    assert len(said[0].split()) >= 10


def test_a_running_engine_is_streamed_from(folder) -> None:
    text, ending = printed(folder, "over_http.py").splitlines()
    assert len(text.split()) >= 6
    assert ending == "12 length"


def test_the_table_names_every_way() -> None:
    named = set(re.findall(r"(generate_\w+)", PAGE.read_text()))
    assert named == {name for name in vars(StreamingEngine) if name.startswith("generate_")}
