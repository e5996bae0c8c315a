"""`enginery_mock.pytest_plugin`, as another project's tests use it: in a directory of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"<!-- file: (\S+) -->\n```python\n(.*?)```", re.DOTALL)
PATIENCE = 30.0
OURS = ("asyncio", "anyio", "hypothesispytest")  # this environment has them; they warn or are slow
QUIET = ("-q", "-p", "no:cacheprovider", *(f"-pno:{name}" for name in OURS))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """``project(text, *flags)``: pytest's output for a directory with one file of tests."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run(text: str, *flags: str, config: str = "[pytest]", passes: bool = True) -> str:
        (tmp_path / "test_theirs.py").write_text(text)
        (tmp_path / "pytest.ini").write_text(config)
        argv = [sys.executable, "-m", "pytest", *QUIET, *flags]
        done = subprocess.run(
            [*argv, "--strict-markers", "-W", "error", "test_theirs.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is passes, done.stdout + done.stderr
        return done.stdout

    return run


def test_importing_it_imports_nothing_else() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import enginery_mock.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["enginery_mock", "enginery_mock.pytest_plugin"]


def test_tests_that_do_not_use_it_are_not_disturbed(project) -> None:
    said = project("""
import os, pathlib, sys

def test_nothing_is_there():
    assert not {"enginery", "enginery_mock.server", "aiohttp", "pydantic"} & sys.modules.keys()
    assert "OPENAI_BASE_URL" not in os.environ

def test_no_child_runs():
    assert not pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
""")
    assert "2 passed" in said


def test_the_readmes_example_passes(project) -> None:
    files = dict(FILE.findall((ROOT / "plugins/mock/README.md").read_text()))
    assert "2 passed" in project(files["test_greeting.py"])


def test_the_environment_leads_to_the_server_and_only_during_the_test(project) -> None:
    said = project("""
import json, os, urllib.request

SEEN = []

def test_one(mock_engine):
    assert os.environ["OPENAI_BASE_URL"] == mock_engine.base_url
    assert os.environ["OPENAI_API_KEY"] == mock_engine.api_key
    with urllib.request.urlopen(mock_engine.base_url + "/models") as reply:
        assert json.load(reply)["data"][0]["id"] == mock_engine.model
    assert any("listening on" in line for line in mock_engine.log)
    SEEN.append(mock_engine.url)

def test_between():
    assert "OPENAI_BASE_URL" not in os.environ
    assert "OPENAI_API_KEY" not in os.environ

def test_two(mock_engine):
    assert [mock_engine.url] == SEEN
""")
    assert "3 passed" in said


def test_options_come_from_the_configuration_and_the_marker_wins(project) -> None:
    said = project(
        """
import pytest

def test_theirs(mock_engine):
    assert mock_engine.model == "theirs"

@pytest.mark.mock_engine(model="mine")
class TestMarked:
    def test_mine(self, mock_engine):
        assert mock_engine.model == "mine"
        assert any("'mine', 3 slots" in line for line in mock_engine.log)

    @pytest.mark.mock_engine(model="nearest")
    def test_nearest(self, mock_engine):
        assert mock_engine.model == "nearest"

@pytest.mark.mock_engine(hang_in_load=True)
def test_one_that_never_loads(mock_engine):
    assert mock_engine.running
""",
        config="[pytest]\nmock_engine = model=theirs slots=3\n",
    )
    assert "4 passed" in said


def test_a_server_that_died_is_replaced_for_the_next_test(project) -> None:
    said = project("""
import json, urllib.request
import pytest

@pytest.mark.mock_engine(crash_after_tokens=1)
@pytest.mark.parametrize("turn", [1, 2])
def test_it_dies(mock_engine, turn):
    body = {"messages": [{"role": "user", "content": "x"}]}
    url, headers = mock_engine.base_url + "/chat/completions", {"Content-Type": "application/json"}
    with pytest.raises(OSError):
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
""")
    assert "2 passed" in said


def test_a_wrong_option_is_told_in_the_servers_words(project) -> None:
    said = project(
        """
import pytest

@pytest.mark.mock_engine(slotz=3)
def test_theirs(mock_engine):
    pass
""",
        passes=False,
    )
    assert "unrecognized arguments: --slotz 3" in said


def test_each_worker_of_xdist_has_its_own(project, tmp_path) -> None:
    said = project(
        """
import os, pathlib, urllib.request
import pytest

@pytest.mark.parametrize("n", range(8))
def test_health(mock_engine, n):
    with urllib.request.urlopen(mock_engine.url + "/health") as reply:
        assert reply.status == 200
    name = f"{os.environ['PYTEST_XDIST_WORKER']}-{mock_engine.url.rpartition(':')[2]}"
    pathlib.Path(name).with_suffix(".seen").touch()
""",
        "-n",
        "2",
    )
    assert "8 passed" in said
    workers = [path.stem.split("-") for path in tmp_path.glob("*.seen")]
    assert len({worker for worker, _ in workers}) == len({port for _, port in workers})


def test_a_killed_session_leaves_no_server(tmp_path) -> None:
    (tmp_path / "test_theirs.py").write_text("""
import pathlib, signal

def test_theirs(mock_engine):
    pathlib.Path("part").write_text(str(mock_engine.pid))
    pathlib.Path("part").rename("pid")
    signal.pause()
""")
    argv = [sys.executable, "-m", "pytest", *QUIET, "test_theirs.py"]
    session = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        _eventually((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert _alive(pid)
    finally:
        os.kill(session.pid, signal.SIGKILL)
        session.wait()
    _eventually(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _eventually(holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
