"""A third party's engine of eight lines, installed with pip: started as it is, and with the user's own binary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
import sys
from enginery import Command, hookimpl

@hookimpl
def build_command(variant, endpoint):
    server = [sys.executable, "-m", "enginery_mock.server", "--port", str(endpoint.port)]
    return Command(server)
"""

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "eight-lines"
version = "1.0"
[project.entry-points."enginery.engines"]
eight = "eight_lines"
[tool.hatch.build.targets.wheel]
include = ["eight_lines.py"]
"""

PROGRAM = """
import asyncio, sys
import aiohttp
from enginery import EngineManager

async def main(binary):
    async with EngineManager() as manager, aiohttp.ClientSession() as session:
        for config in ({}, {"binary": binary}):
            client = await manager.ensure_engine("m", config, "eight")
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            async with await client.forward_request(session, "", body) as response:
                print((await response.json())["usage"]["completion_tokens"])

asyncio.run(main(sys.argv[1]))
"""


def test_it_runs_as_it_is_and_with_the_users_own_binary(tmp_path: Path) -> None:
    assert len(PLUGIN.strip().splitlines()) <= 10
    source, target = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "eight_lines.py").write_text(PLUGIN)
    (source / "pyproject.toml").write_text(PROJECT)
    options = [
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--target",
        str(target),
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    mine, witness = tmp_path / "my-python", tmp_path / "my-python-ran"
    mine.write_text(f'#!/bin/sh\necho "$@" > {witness}\nexec {sys.executable} "$@"\n')
    mine.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(mine)],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["3", "3"], done.stderr
    assert "enginery_mock.server" in witness.read_text()
