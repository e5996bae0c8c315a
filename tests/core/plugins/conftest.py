"""Real distributions of other people: written here, built and installed by pip, without a network."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = """
from enginery import Command, hookimpl

@hookimpl
def build_command(variant, endpoint):
    return Command(["tiny-server", "--port", str(endpoint.port)], health_path="/")
"""
"""The smallest useful plugin: what the README promises."""

GOOD = "from enginery import hookimpl\n@hookimpl\ndef build_command(variant): pass\n"

DEFECTS = {
    "no-import": "import a_library_that_is_not_there\n",
    "exits": "import sys\nsys.exit('cannot live here')\n",
    "interrupted-syntax": "def build_command(:\n",
    "misspelled": GOOD + "@hookimpl\ndef chek_health(engine): pass\n",
    "unmarked": "def build_command(variant, endpoint): pass\n",
    "keyword-only": "from enginery import hookimpl\n@hookimpl\ndef build_command(*, variant): pass\n",
    "defaulted": "from enginery import hookimpl\n@hookimpl\ndef build_command(variant=None): pass\n",
    "unknown-parameter": "from enginery import hookimpl\n@hookimpl\ndef build_command(model): pass\n",
    "other-api": "API_VERSION = (2, 0)\n" + GOOD,
    "no-version": "API_VERSION = 'one'\n" + GOOD,
    "constructor": "class Engine:\n    def __init__(self):\n        raise OSError('no GPU')\n",
    "neither": "from enginery import hookimpl\n@hookimpl\ndef check_health(engine): pass\n",
    "missing": GOOD,
}
"""engine_type to the module of its plugin; each is wrong in its own way."""

ATTRIBUTE = {"constructor": ":Engine", "missing": ":Nowhere"}


def module_of(engine_type: str) -> str:
    return "defect_" + engine_type.replace("-", "_")


def _write(
    root: Path, name: str, modules: dict[str, str], engines: dict[str, str], version: str = "1.2"
) -> Path:
    source = root / name
    source.mkdir(parents=True)
    for module, code in modules.items():
        (source / f"{module}.py").write_text(code)
    points = "".join(f'"{engine}" = "{value}"\n' for engine, value in engines.items())
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\ndependencies = ["enginery"]\n'
        f'[project.entry-points."enginery.engines"]\n{points}'
        f"[tool.hatch.build.targets.wheel]\ninclude = {json.dumps([m + '.py' for m in modules])}\n"
    )
    return source


def _install(target: Path, sources: list[Path]) -> None:
    flags = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *flags]
    subprocess.run([*pip, "--target", target, *sources], check=True)


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A folder for ``sys.path`` with the distributions; built once, also for parallel workers."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    target, sources = shared / "installed", shared / "sources"
    with (shared / "installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            points = {kind: module_of(kind) + ATTRIBUTE.get(kind, "") for kind in DEFECTS}
            modules = {module_of(kind): code for kind, code in DEFECTS.items()}
            _install(
                shared / "installing-now",
                [
                    _write(sources, "Tiny.Engine", {"tiny_engine": TINY}, {"tiny": "tiny_engine"}),
                    _write(sources, "all-defects", modules, points),
                    _write(
                        sources,
                        "zz-late",
                        {"zz_late": GOOD},
                        {"tiny": "zz_late", "mock": "zz_late", "late": "zz_late"},
                    ),
                ],
            )
            (shared / "installing-now").rename(target)
    return target


@pytest.fixture(scope="session")
def in_child(installed) -> Callable[[str], Any]:
    """Runs code in a Python that has the distributions installed; gives what it prints as JSON."""

    def run(code: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
