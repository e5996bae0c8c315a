"""The package: importing it is cheap, and its names are its face."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "plugins" / "vllm" / "README.md"


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys, enginery_vllm; print(dir(enginery_vllm));"
        "print('pydantic' in sys.modules or 'vllm' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert "VllmEngine" in done.stdout
    assert done.stdout.endswith("False\n")


def test_public_names_are_sorted_and_documented() -> None:
    import enginery_vllm

    assert enginery_vllm.__all__ == sorted(enginery_vllm.__all__)
    assert {"VllmEngine", "VllmPlugin"} <= set(enginery_vllm.__all__)
    for name in enginery_vllm.__all__:
        assert getattr(enginery_vllm, name).__doc__
    assert not hasattr(enginery_vllm, "nothing")


def test_the_page_names_every_option() -> None:
    from enginery_vllm.options import VllmOptions

    page = README.read_text()
    assert [name for name in VllmOptions.model_fields if f"`{name}`" not in page] == []
