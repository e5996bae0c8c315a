"""The pages do what they say: their files are written out, installed with pip and run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from enginery.engine.catalog import Catalog
from enginery.plugins import PluginRegistry
from enginery.settings import load_settings

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(python|yaml)\n(.*?)```", re.DOTALL)


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written_out(page: str, folder: Path) -> dict[str, str]:
    """The files of a page, in ``folder``."""
    files = dict(FILE.findall((ROOT / page).read_text()))
    assert files, f"{page} has no files"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return files


def installed(source: Path, target: Path) -> None:
    options = [
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--target",
        str(target),
    ]
    run("-m", "pip", "install", *options, str(source), cwd=source)


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> tuple[Path, Path]:
    """Write-an-engine's plugin: its source and where it is installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    written_out("docs/write-an-engine.md", source)
    installed(source, target)
    return source, target


def test_the_engine_of_the_page_is_found_and_answers(echo, tmp_path):
    source, target = echo
    rows = json.loads(run("-m", "enginery.cli", "plugins", "--json", cwd=tmp_path, path=target))
    states = {row["engine_type"]: (row["state"], row["distribution"]) for row in rows}
    assert states["echo"] == ("ready", "enginery-echo")
    assert run(str(source / "use_it.py"), cwd=tmp_path, path=target) == "2\nHELLO THERE\n"


def test_the_tests_of_the_page_pass(echo):
    source, target = echo
    options = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(source)]
    assert "2 passed" in run("-m", "pytest", *options, "test_echo.py", cwd=source, path=target)


def test_the_pages_mistakes_in_options_are_explained(echo, tmp_path):
    _, target = echo
    (tmp_path / "enginery.yaml").write_text(
        "models:\n  parrot: {engine: echo, options: {shuot: true}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "enginery.cli", "config", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "enginery.yaml:2:" in done.stderr
    assert "did you mean shout?" in done.stderr


def test_the_readmes_plugin_is_found(tmp_path):
    source, target = tmp_path / "source", tmp_path / "installed"
    files = written_out("README.md", source)
    assert len(files["enginery_small.py"].splitlines()) <= 10
    installed(source, target)
    rows = json.loads(run("-m", "enginery.cli", "plugins", "--json", cwd=tmp_path, path=target))
    states = {row["engine_type"]: row["state"] for row in rows}
    assert states["small"] == "ready"


def test_the_readmes_program_prints_what_two_engines_say(tmp_path):
    blocks = [
        text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == "python"
    ]
    (program,) = [text for text in blocks if "asyncio.run(" in text]
    (tmp_path / "program.py").write_text(program)
    lines = run("program.py", cwd=tmp_path).splitlines()
    assert lines[0].startswith("Lists are mutable sequences")
    assert len(lines) >= 2
    assert lines[1]


def test_every_settings_file_of_the_pages_is_accepted(tmp_path):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = [
        text for page in pages for kind, text in BLOCK.findall(page.read_text()) if kind == "yaml"
    ]
    assert len(found) >= 2
    for text in found:
        (tmp_path / "enginery.yaml").write_text(text)
        settings = load_settings(tmp_path / "enginery.yaml", environ={})
        assert settings.models
        if "engine: echo" not in text:
            Catalog(settings, PluginRegistry()).check_all()
        assert yaml.safe_load(text)


def test_every_name_that_origins_claims_exists():
    rows = re.findall(
        r"^\| .+? \| (.+?) \| .*?\|$", (ROOT / "docs/origins.md").read_text(), re.MULTILINE
    )
    names = [cell.strip("`") for cell in rows if cell.startswith("`enginery")]
    assert len(names) > 30
    for name in names:
        parts = name.split(".")
        depth = next(n for n in range(len(parts), 0, -1) if _importable(".".join(parts[:n])))
        value = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            annotated = part in getattr(value, "__annotations__", {})
            assert annotated or hasattr(value, part), f"{name} does not exist"
            value = getattr(value, part, None)


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def test_every_link_between_the_pages_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", page.read_text()):
            assert not target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_hook_has_its_own_heading_that_links_can_reach():
    text = (ROOT / "docs/hooks.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(
        r"hooks\.md#([^)]*)\)", (ROOT / "docs/write-an-engine.md").read_text()
    ):
        assert target in anchors, f"hooks.md#{target}"
