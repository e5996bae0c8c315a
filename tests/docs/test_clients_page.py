"""The programs of docs/clients.md run against a gateway, and print what the model says.

What is not among our own tools is installed into an environment of its own, by the heavy tests; where pip cannot, they
are not run and say so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.gateways import GatewayThread

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"
QUESTION = "Why is the sky blue?"
DEADLINE = 300.0


@pytest.fixture(scope="module")
def house() -> Iterator[GatewayThread]:
    models = {
        "mocked": {
            "engine": "mock",
            "aliases": ["default"],
            "parallel": 4,
            "context_length": 32768,
            "options": {"seed": 7, "ttft_ms": 0, "itl_ms": 0},
        }
    }
    with GatewayThread(models) as house:
        yield house


@pytest.fixture(scope="module")
def folder(house, tmp_path_factory) -> Path:
    """The page's files, which ask the test's gateway."""
    folder = tmp_path_factory.mktemp("clients")
    for name, text in FILE.findall(PAGE.read_text()):
        assert ADDRESS in text or name == "with_llm.sh"
        (folder / name).write_text(text.replace(ADDRESS, house.url))
    return folder


@pytest.fixture(scope="module")
def answer(house) -> str:
    """What the model says to the page's question, asked without any client."""
    body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}]}
    request = urllib.request.Request(
        f"{house.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        text = json.load(reply)["choices"][0]["message"]["content"]
    assert text.strip()
    return text


def printed(folder: Path, *command: str, path: Path | None = None, **env: str) -> str:
    """What a command prints in the folder; it has no proxy, no keys, and no home but the folder."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.endswith(("_API_KEY", "_BASE_URL"))
    }
    first = f"{path}{os.pathsep}" if path is not None else ""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**clean, "HOME": str(folder), "PATH": f"{first}{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_names_every_client_that_is_tested(folder) -> None:
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *("ask.sh", "with_openai.py", "with_anthropic.py", "extra-openai-models.yaml"),
        *("with_llm.sh", "with_langchain.py", "with_litellm.py", "with_aider.sh"),
    }


def test_curl_prints_the_reply(folder, answer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NOT RUN: no curl")
    reply = json.loads(printed(folder, "sh", "ask.sh"))
    assert reply["choices"][0]["message"]["content"] == answer


@pytest.mark.parametrize("program", ["with_openai.py", "with_anthropic.py"])
def test_the_official_clients_print_the_answer(folder, answer, program) -> None:
    assert printed(folder, sys.executable, program).strip() == answer.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Callable[[str], Path]:
    """Installs a distribution into an environment of its own; gives its directory of programs."""

    def install(name: str) -> Path:
        place = tmp_path_factory.mktemp("env")
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            [
                str(place / "bin/python"),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                name,
            ],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                print(f"NOT RUN: pip cannot install {name}: {why}")
                pytest.skip(f"NOT RUN: pip cannot install {name}: {why}")
        return place / "bin"

    return install


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("distribution", "program"),
    [("langchain-openai", "with_langchain.py"), ("litellm", "with_litellm.py")],
)
def test_libraries_print_the_answer(folder, answer, installed, distribution, program) -> None:
    programs = installed(distribution)
    said = printed(folder, str(programs / "python"), program, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert said.strip() == answer.strip()


@pytest.mark.heavy
def test_llm_prints_the_answer(folder, answer, installed) -> None:
    programs = installed("llm")
    said = printed(folder, "sh", "with_llm.sh", path=programs, LLM_USER_PATH=str(folder))
    assert said.strip() == answer.strip()


@pytest.mark.heavy
def test_aider_gets_an_answer(folder, house, installed) -> None:
    programs = installed("aider-chat")
    said = printed(
        folder,
        *("sh", "with_aider.sh"),
        path=programs,
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        AIDER_ANALYTICS="false",
        COLUMNS="200",
    )
    # its own prompt comes before the question, so the answer is another one
    assert "Model: openai/default" in said
    assert re.search(r"Tokens: .* sent, .* received", said)
