"""``enginery config import llama-swap`` as an operator uses it: a file in, a file out, and it serves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DEADLINE = 40.0
EVERY_FIELD = Path(__file__).parents[1] / "importing" / "every_field.yaml"


def test_the_result_passes_our_own_check_and_losses_have_their_places(enginery, tmp_path) -> None:
    (tmp_path / "swap.yaml").write_text(EVERY_FIELD.read_text())
    done = enginery("config", "import", "llama-swap", "swap.yaml", "-o", "enginery.yaml")
    assert done.code == 0, done.err
    assert done.out == ""
    line = EVERY_FIELD.read_text().splitlines().index("captureBuffer: 1") + 1
    assert f"swap.yaml:{line}:1: captureBuffer: not carried over: " in done.err
    assert done.err.splitlines()[-1].startswith("12 models; ")
    checked = enginery("config", "check", SECOND_KEY="k", HOSTED_KEY="k")
    assert checked.code == 0, checked.err
    assert "ok: 12 models" in checked.out


def test_a_file_that_is_there_is_not_overwritten(enginery, tmp_path) -> None:
    (tmp_path / "swap.yaml").write_text("models: {}")
    (tmp_path / "mine.yaml").write_text("precious")
    done = enginery("config", "import", "llama-swap", "swap.yaml", "-o", "mine.yaml")
    assert done.code == 1
    assert "File exists" in done.err
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_what_is_no_yaml_is_told_with_its_place(enginery, tmp_path) -> None:
    (tmp_path / "swap.yaml").write_text("models:\n\tm: {}\n")
    done = enginery("config", "import", "llama-swap", "swap.yaml")
    assert done.code == 1
    assert "swap.yaml:2:1: not YAML" in done.err
    assert done.out == ""


@pytest.fixture
def programs(tmp_path) -> Path:
    """A directory with a ``llama-server`` and a ``some-server``: the bundled llama.cpp, and the mock."""
    for name, module in (
        ("llama-server", "enginery_llamacpp.server"),
        ("some-server", "enginery_mock.server"),
    ):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    return tmp_path / "bin"


def test_an_imported_configuration_serves(enginery, tmp_path, programs) -> None:
    import enginery_llamacpp

    gguf = Path(enginery_llamacpp.__file__).with_name("data") / "micro-pydoc.gguf"
    (tmp_path / "swap.yaml").write_text(f"""
macros:
  bin: {programs}
  size: 512
models:
  real:
    cmd: |
      # two lines, a macro in each
      ${{bin}}/llama-server --port ${{PORT}} -m {gguf} \\
      -t 1 -c ${{size}}
    useModelName: whatever
  other:
    cmd: ${{bin}}/some-server --port ${{PORT}} --seed 3 --ttft-ms 0 --itl-ms 0
    checkEndpoint: /health
    aliases: [another]
""")
    done = enginery("config", "import", "llama-swap", "swap.yaml", "-o", "enginery.yaml")
    assert done.code == 0, done.err
    assert "2 models" in done.err
    real = enginery("run", "real", "List objects are", "--temperature", "0")
    assert real.code == 0, real.err
    assert real.out.startswith("Lists are mutable sequences")
    mock = enginery("run", "another", "hello")
    assert mock.code == 0, mock.err
    assert mock.out.strip()
