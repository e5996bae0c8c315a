"""docs/wire-formats.md: its modules are all there are, and its programs run."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from enginery import api

PAGE = (Path(__file__).parents[2] / "docs" / "wire-formats.md").read_text()
INNER = {"pieces"}  # how chunks add up: `aggregate` is its face


def test_the_page_names_every_public_module() -> None:
    named = set(re.findall(r"^\| `enginery\.api\.(\w+)` \|", PAGE, re.MULTILINE))
    assert named == set(api.__all__) - INNER


def test_the_functions_of_the_page_exist() -> None:
    modules = [import_module(f"enginery.api.{name}") for name in api.__all__]
    public = {name for module in modules for name in module.__all__}
    for name in ("decode_body", "stream_error", "Fold", "broken_stream_end", "streaming_fields"):
        assert f"`{name}" in PAGE
        assert name in public


def test_the_programs_of_the_page_run() -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        exec(compile(program, "wire-formats.md", "exec"), {})
