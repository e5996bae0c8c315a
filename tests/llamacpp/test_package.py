"""The distribution: what its wheel holds, and that importing it is cheap."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).parents[2] / "plugins" / "llamacpp"
DATA = PLUGIN / "src" / "enginery_llamacpp" / "data"


def test_the_wheel_holds_the_demo_model(tmp_path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=PLUGIN, check=True, capture_output=True, timeout=30)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {f"enginery_llamacpp/{path.relative_to(DATA.parent)}" for path in DATA.iterdir()}
    assert package | {"enginery_llamacpp/py.typed", "enginery_llamacpp/server.py"} <= names


def test_the_provenance_names_the_file_that_is_there() -> None:
    digest = hashlib.sha256((DATA / "micro-pydoc.gguf").read_bytes()).hexdigest()
    assert re.findall(r"[0-9a-f]{64}", (DATA / "PROVENANCE.md").read_text()) == [digest]


def test_importing_the_package_loads_nothing() -> None:
    program = "import sys, enginery_llamacpp; print(dir(enginery_llamacpp)); print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert "LlamaCppEngine" in done.stdout
    assert done.stdout.endswith("False\n")


def test_public_names_are_exactly_these() -> None:
    import enginery_llamacpp

    assert enginery_llamacpp.__all__ == sorted(enginery_llamacpp.__all__)
    for name in enginery_llamacpp.__all__:
        assert getattr(enginery_llamacpp, name).__doc__
    assert not hasattr(enginery_llamacpp, "nothing")
