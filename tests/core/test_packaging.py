"""The distributions: one version, honest dependencies, no download addresses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = sorted([ROOT / "core", *(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))])
NAMES = [project.name for project in PROJECTS]


def pyproject(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text())["project"]


def package(project: Path) -> Path:
    return next(path.parent for path in project.glob("src/*/py.typed"))


def plain(requirement: str) -> str:
    """The distribution's name in a requirement, as PyPI compares it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@cache
def distributions() -> dict[str, list[str]]:
    return dict(importlib_metadata.packages_distributions())


NOT_INSTALLED = {"pynvml": ["nvidia-ml-py"]}
"""What an optional extra brings, on a machine without it."""


def brought_by(module: str) -> set[str]:
    """The distributions that bring an importable name; editable ones (ours) are not listed."""
    return {
        plain(name) for name in distributions().get(module, NOT_INSTALLED.get(module, [module]))
    }


def imported(project: Path) -> set[str]:
    """Top-level names that a distribution's source imports, or looks for."""
    found = set()
    for path in package(project).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", getattr(node.func, "attr", ""))
                in {"find_spec", "import_module"}
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(str(node.args[0].value).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {package(project).name}


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_there_is_one_version_everywhere(project) -> None:
    version = pyproject(ROOT / "core")["version"]
    assert version == import_module("enginery").__version__
    assert pyproject(project)["version"] == version
    if project.name != "core":
        assert f"enginery=={version}" in pyproject(project)["dependencies"]


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_what_is_imported_is_declared(project) -> None:
    declared = {plain(line) for line in pyproject(project)["dependencies"]}
    optional = pyproject(project).get("optional-dependencies", {})
    declared |= {plain(line) for lines in optional.values() for line in lines}
    for module in imported(project):
        assert brought_by(module) & declared, f"{module} is imported but not declared"


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_what_is_declared_is_imported(project) -> None:
    used = {name for module in imported(project) for name in brought_by(module)}
    declared = {plain(line) for line in pyproject(project)["dependencies"]}
    assert declared <= used


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_optional_libraries_are_never_imported_at_the_top(project) -> None:
    optional = {
        plain(line)
        for lines in pyproject(project).get("optional-dependencies", {}).values()
        for line in lines
    }
    for path in package(project).rglob("*.py"):
        if path.name == "pytest_plugin.py":
            continue  # nobody but pytest imports it
        for node in ast.parse(path.read_text()).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or "enginery"]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert not brought_by(name.partition(".")[0]) & optional


@pytest.mark.parametrize("project", PROJECTS, ids=NAMES)
def test_a_distribution_says_what_it_is(project) -> None:
    said = pyproject(project)
    assert said["name"] == package(project).name.replace("_", "-")
    assert said["license"] == "Apache-2.0"
    assert said["requires-python"] == ">=3.11"
    assert (project / said["readme"]).read_text().strip()


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-vllm.txt"])
def test_constraints_are_names_and_versions_only(name) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+(\+cpu)?", pin) for pin in pins)
    names = {pin.partition("==")[0] for pin in pins}
    assert len(names) == len(pins)
    for project in PROJECTS:
        declared = {plain(line) for line in pyproject(project)["dependencies"]} - {"enginery"}
        assert declared <= names


def test_no_file_mentions_a_download_host() -> None:
    """Installation is the user's own index and mirror; nothing here reaches around it."""
    hosts = ["pythonhosted" + ".org", "pypi" + ".org/simple", "/releases/" + "download/"]
    hosts += ["download." + "pytorch.org", "--index" + "-url", "--extra-index" + "-url"]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes()
            found += [(name, host) for host in hosts if host.encode() in text]
    assert found == []
