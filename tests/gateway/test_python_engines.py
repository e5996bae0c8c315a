"""Engines in Python, of other people: installed by pip, listed, loaded, swapped and killed like any other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from enginery import EngineManager, EngineryError, Settings
from enginery.cli.plugin import package_files
from enginery.gateway import Gateway
from support.gateways import serving

THIRD_PARTY = '''
"""The engine_type parrot: says back what it is told, a word at a time."""

import time

from enginery import GeneratorBackend, hookimpl

API_VERSION = (1, 0)


@hookimpl
def create_backend(variant):
    pause = variant.options.get("pause", 0)

    def generate(request):
        for word in request.messages[-1]["content"].split():
            time.sleep(pause)
            yield f"{word} "

    return GeneratorBackend(generate, slots=variant.parallel)
'''
assert len(THIRD_PARTY.splitlines()) <= 40

SLEEPER = """
from enginery import hookimpl
from enginery.enginecore.mock import create_backend as mock

@hookimpl
def create_backend(variant):
    return mock(max_batch_size=variant.parallel)
"""

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "parrot-engine"
version = "3.0"
[project.entry-points."enginery.engines"]
parrot = "parrot_engine"
sleeper = "sleeper_engine"
[tool.hatch.build.targets.wheel]
include = ["*.py"]
"""
FLAGS = ("--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--quiet")
HELLO: list[Any] = [{"role": "user", "content": "hello there you"}]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Three distributions, built and installed: the one above, and both that `plugin new` writes."""
    root, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("installed")
    packages = {
        "parrot": {
            "pyproject.toml": PYPROJECT,
            "parrot_engine.py": THIRD_PARTY,
            "sleeper_engine.py": SLEEPER,
        },
        "backend": package_files("new.backend", backend=True),
        "server": package_files("new-server", backend=False),
    }
    for name, files in packages.items():
        for path, text in files.items():
            file = root / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *FLAGS]
    subprocess.run([*pip, "--target", target, *(root / name for name in packages)], check=True)
    return target


@pytest.fixture
def found(installed, monkeypatch) -> Iterator[None]:
    """Here and in every child these distributions are installed."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.syspath_prepend(str(installed))
    yield
    for name in ("parrot_engine", "sleeper_engine", "enginery_new_backend", "enginery_new_server"):
        sys.modules.pop(name, None)


def client_of(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{gateway.base_url}/v1", api_key="x", max_retries=0, timeout=60
    )


async def said(client: openai.AsyncOpenAI, model: str, *, stream: bool = False) -> str:
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 16}
    if not stream:
        return (await client.chat.completions.create(**asked)).choices[0].message.content or ""
    chunks = await client.chat.completions.create(**asked, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


def pid_of(gateway: Gateway, model: str) -> int:
    (pid,) = [row.pid for row in gateway.manager.status() if row.model == model]
    assert pid is not None
    return pid


def test_it_is_listed(installed) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "enginery.cli", "plugins", "--json"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["engine_type"]: row for row in json.loads(run.stdout)}
    assert (rows["parrot"]["state"], rows["parrot"]["hooks"]) == ("ready", ["create_backend"])
    assert rows["new.backend"]["state"] == rows["new-server"]["state"] == "ready"


@pytest.mark.usefixtures("found")
async def test_it_is_chatted_with_swapped_for_llama_cpp_and_back(tiny_models) -> None:
    llama = {"model": str(tiny_models / "tiny-chat.gguf"), "threads": 1}
    models = {
        "bird": {"engine": "parrot"},
        "llama": {"engine": "llama.cpp", "context_length": 512, "options": llama},
        "inside": {
            "engine": "llama.cpp",
            "context_length": 512,
            "options": {**llama, "in_process": True},
        },
    }
    async with serving(models) as gateway, client_of(gateway) as client:
        assert await said(client, "bird") == await said(client, "bird", stream=True)
        first = pid_of(gateway, "bird")
        assert await said(client, "llama")
        assert not psutil.pid_exists(first)
        assert await said(client, "inside", stream=True)
        assert await said(client, "bird") == "hello there you "


@pytest.mark.usefixtures("found")
async def test_killed_while_it_streams_it_is_an_error_and_the_next_request_is_served() -> None:
    models = {"bird": {"engine": "parrot", "options": {"pause": 0.1}}}
    async with serving(models) as gateway, client_of(gateway) as client:
        words: list[Any] = [{"role": "user", "content": "word " * 1000}]
        chunks = await client.chat.completions.create(model="bird", messages=words, stream=True)
        stream = aiter(chunks)
        while not (await anext(stream)).choices[0].delta.content:
            pass
        server = psutil.Process(pid_of(gateway, "bird"))
        (core,) = server.children()
        server.kill()
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass
        assert psutil.wait_procs([core], timeout=0)[1] == [] or await _ends(core)
        assert await said(client, "bird") == "hello there you "


async def _ends(process: psutil.Process) -> bool:
    for _ in range(3000):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.01)
    return False


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("engine", "text"), [("new.backend", "hello there you "), ("new-server", "hello there you")]
)
async def test_what_plugin_new_writes_works_before_a_line_is_changed(engine, text) -> None:
    async with serving({"m": {"engine": engine}}) as gateway, client_of(gateway) as client:
        assert await said(client, "m") == text
        assert await said(client, "m", stream=True) == text


@pytest.mark.usefixtures("found")
async def test_the_deny_list_holds_in_the_engines_own_process_too() -> None:
    settings = Settings(models={"bird": {"engine": "parrot"}}, plugins={"deny": ["Parrot.Engine"]})
    async with EngineManager(settings) as manager:
        with pytest.raises(EngineryError, match="deny list"):
            await manager.ensure_engine("bird")


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize("engine", ["mock", "sleeper"])
async def test_an_idle_backend_sleeps_as_it_can_and_wakes_for_the_next_request(engine) -> None:
    options = {"in_process": True} if engine == "mock" else {}
    model = {"engine": engine, "sleep_level": 1, "sleep_after": 0.1, "options": options}
    async with serving({"m": model}) as gateway, client_of(gateway) as client:
        first = await said(client, "m")
        pid = pid_of(gateway, "m")
        for _ in range(3000):
            if [row.state for row in gateway.manager.status()] == ["asleep"]:
                break
            await asyncio.sleep(0.01)
        assert [row.state for row in gateway.manager.status()] == ["asleep"]
        assert await said(client, "m") == first
        assert pid_of(gateway, "m") == pid
