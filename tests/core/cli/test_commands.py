"""The command line as a person or a script meets it: real processes, real signals, real terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

DEADLINE = 30.0


@pytest.fixture(scope="module")
def gguf() -> str:
    """The model that the llama.cpp plugin ships."""
    import enginery_llamacpp

    return str(Path(enginery_llamacpp.__file__).with_name("data") / "micro-pydoc.gguf")


def test_a_model_file_answers_without_any_configuration(enginery, gguf):
    done = enginery("run", gguf, "List objects are", "--temperature", "0")
    assert done.code == 0, done.err
    assert done.out.startswith("Lists are mutable sequences")
    assert "micro-pydoc is ready after" in done.err
    assert re.search(r"^\d+ tokens, first token after \d+ ms", done.err, re.MULTILINE)


def test_the_prompt_may_come_from_stdin(enginery, gguf):
    done = enginery("run", gguf, "--max-tokens", "3", stdin="List objects are\n")
    assert done.code == 0, done.err
    assert done.out.strip()
    assert "cut at the token limit" in done.err


def test_an_empty_prompt_is_wrong_usage(enginery, gguf):
    done = enginery("run", gguf, stdin="")
    assert done.code == 2
    assert "no PROMPT given" in done.err


def test_a_model_of_the_settings_file_is_run_by_name(enginery, tmp_path):
    (tmp_path / "enginery.yaml").write_text(
        "models:\n  m: {engine: mock, aliases: [other], options: {seed: 3, ttft_ms: 0, itl_ms: 0}}\n"
    )
    one, two = (enginery("run", name, "hello") for name in ("m", "other"))
    assert one.code == two.code == 0, one.err
    assert one.out == two.out != "\n"


def test_an_unknown_model_is_told_with_the_nearest_name(enginery, tmp_path):
    (tmp_path / "enginery.yaml").write_text("models:\n  qwen3: {engine: mock}\n")
    done = enginery("run", "qwen", "hello")
    assert done.code == 1
    assert "did you mean qwen3?" in done.err
    assert done.out == ""


def test_a_file_that_is_not_there_is_told_as_a_file(enginery):
    done = enginery("run", "models/nope.gguf", "hello")
    assert done.code == 1
    assert "there is no file models/nope.gguf" in done.err


def test_a_file_that_no_plugin_knows_is_told_with_those_that_were_asked(enginery, tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    done = enginery("run", "notes.txt", "hello")
    assert done.code == 1
    assert "no plugin knows what to do with notes.txt; asked: llama.cpp" in done.err


def test_an_engine_that_cannot_start_is_told_with_its_last_lines(enginery, tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    done = enginery("run", "broken.gguf", "hello")
    assert done.code == 1
    assert "exit status 1" in done.err
    assert "last lines of its log:" in done.err
    assert "failed to load model" in done.err
    assert "Traceback" not in done.err


def test_plugins_are_listed_for_people_and_for_programs(enginery):
    table = enginery("plugins").out
    assert "llama.cpp" in table
    assert "enginery-mock" in table
    rows = {row["engine_type"]: row for row in json.loads(enginery("plugins", "--json").out)}
    assert rows["llama.cpp"]["state"] == "ready"
    assert rows["llama.cpp"]["api_version"] == [1, 0]
    assert "build_command" in rows["llama.cpp"]["hooks"]


def test_a_denied_plugin_is_listed_as_blocked_with_the_reason(enginery, tmp_path):
    (tmp_path / "enginery.yaml").write_text("plugins: {deny: [enginery-mock]}\n")
    rows = {row["engine_type"]: row for row in json.loads(enginery("plugins", "--json").out)}
    assert rows["mock"]["state"] == "blocked"
    assert "plugins.deny" in rows["mock"]["reason"]
    assert rows["llama.cpp"]["state"] == "ready"


def test_no_plugin_is_begun_under_the_name_of_an_engine_that_is_there(enginery, tmp_path):
    done = enginery("plugin", "new", "mock")
    assert done.code == 1
    assert "an engine 'mock' is installed already" in done.err
    assert not list(tmp_path.iterdir())


def test_a_good_settings_file_is_confirmed(enginery, tmp_path):
    (tmp_path / "enginery.yaml").write_text(
        "models:\n  m:\n    engine: mock\n    variants:\n"
        "      short: {context_length: 512}\n      long: {context_length: 4096}\n"
    )
    done = enginery("config", "check")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "ok: 1 model",
        "  m/short  mock  context 512",
        "  m/long  mock  context 4096",
    ]


def test_every_mistake_of_a_settings_file_is_told_with_its_place(enginery, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "defaults: {max_wiat: 3s}\nmodels:\n  m: {engine: mock, parallel: many}\n"
        "  n: {engine: mock, aliases: [m], options: {sed: 1}}\n"
    )
    done = enginery("config", "check", "bad.yaml")
    assert done.code == 1
    assert "bad.yaml:1:12: defaults.max_wiat: unknown key; did you mean max_wait?" in done.err
    assert "bad.yaml:3:" in done.err
    assert "bad.yaml:4:31: models.n.aliases[0]: 'm' is already the name of model m" in done.err
    assert "bad.yaml:4:45: models.n.options.sed: unknown option; did you mean seed?" in done.err
    assert "Traceback" not in done.err


def test_the_doctor_finds_this_machine_well(enginery):
    done = enginery("doctor", "--json")
    assert done.code == 0, done.out
    found = {row["name"]: row for row in json.loads(done.out)}
    assert found["guardian"]["state"] == "ok"
    assert found["ports"]["state"] == "ok"
    assert "ram" in found["memory"]["detail"]
    assert found["engine llama.cpp"]["state"] == "ok"


def test_the_doctor_fails_for_what_engines_need_and_says_where(enginery, tmp_path):
    (tmp_path / "enginery.yaml").write_text("models: {m: {engine: mock, options: {sed: 1}}}\n")
    done = enginery("doctor")
    assert done.code == 1
    assert "FAIL  models" in done.out
    assert "did you mean seed?" in done.out


CANNOT_START = """\
models:
  fine: {engine: mock}
  gone: {engine: vllm, options: {model: x, python: /nowhere/bin/python}}
  without: {engine: vllm, options: {model: x, python: PYTHON}}
  again: {engine: vllm, parallel: 2, options: {model: x, python: PYTHON}}
  elsewhere: {engine: vllm, url: "http://127.0.0.1:9"}
"""


@pytest.fixture
def bare_python(tmp_path) -> str:
    """A Python without any package."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_the_doctor_asks_the_programs_and_says_which_engines_cannot_start(
    enginery, tmp_path, bare_python
):
    (tmp_path / "enginery.yaml").write_text(CANNOT_START.replace("PYTHON", bare_python))
    done = enginery("doctor", "--json")
    assert done.code == 1
    failed = {
        row["name"]: row["detail"] for row in json.loads(done.out) if row["state"] == "failed"
    }
    assert set(failed) == {"model gone/default", "program of vllm"}
    assert "/nowhere/bin/python is not there" in failed["model gone/default"]
    assert "`pip install vllm` there" in failed["program of vllm"]
    assert failed["program of vllm"].endswith("(for without/default, again/default)")


def test_a_right_settings_file_that_this_machine_cannot_serve_is_ok_and_told_so(
    enginery, tmp_path, bare_python
):
    (tmp_path / "enginery.yaml").write_text(CANNOT_START.replace("PYTHON", bare_python))
    done = enginery("config", "check")
    assert done.code == 0
    assert done.out.startswith("ok: 5 models")
    (told,) = done.err.splitlines()  # of files alone: nobody is asked for a version
    assert told.startswith("cannot start on this machine: gone/default: /nowhere/bin/python")


@pytest.mark.parametrize(
    ("server", "state", "code"),
    [
        ("{}", "ok", 0),
        ("{host: 0.0.0.0, api_keys: [sesame]}", "ok", 0),
        ("{host: 0.0.0.0, allow_unauthenticated: true}", "warning", 0),
        ("{host: 0.0.0.0}", "failed", 1),
        ("{host: 0.0.0.0, admin_keys: [sesame]}", "failed", 1),
    ],
)
def test_the_doctor_finds_a_gateway_that_is_exposed_without_a_key(
    enginery, tmp_path, server, state, code
):
    (tmp_path / "enginery.yaml").write_text(f"server: {server}\n")
    done = enginery("doctor", "--json")
    found = {row["name"]: row for row in json.loads(done.out)}
    assert found["exposed-without-key"]["state"] == state
    assert done.code == code
    assert "sesame" not in done.out


def test_wrong_usage_leaves_with_2(enginery):
    assert enginery("run").code == 2
    assert enginery("nonsense").code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_reply_stops_the_engine_and_leaves_with_130(tmp_path, number):
    (tmp_path / "enginery.yaml").write_text("models:\n  m: {engine: mock, options: {itl_ms: 50}}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "enginery.cli", "run", "m", "hello", "--max-tokens", "100000"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout.read(1), process.stderr.read()
        engines = _below(process.pid)
        assert engines
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in engines)


def _below(root: int) -> list[int]:
    from enginery.engine.guardian import descendants

    return descendants(root)


class Terminal:
    """`enginery run m` on a terminal of its own."""

    def __init__(self, directory: Path, options: str, *words: str) -> None:
        (directory / "enginery.yaml").write_text(
            f"models:\n  m: {{engine: mock, options: {options}}}\n"
        )
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "enginery.cli", "run", "m", *words],
            cwd=directory,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = b""

    def wait_for(self, text: bytes, times: int = 1) -> None:
        deadline = time.monotonic() + DEADLINE
        while self.screen.count(text) < times:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 0.1)[0]:
                self.screen += os.read(self.master, 65536)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.master)


def test_on_a_terminal_one_can_talk_until_ctrl_d(tmp_path):
    with Terminal(tmp_path, "{ttft_ms: 0, itl_ms: 0}", "--max-tokens", "5") as terminal:
        terminal.wait_for(b">>> ")
        assert b"m is ready after" in terminal.screen
        terminal.type(b"hello\n")
        terminal.wait_for(b">>> ", 2)
        terminal.type(b"and again\n")
        terminal.wait_for(b">>> ", 3)
        assert terminal.screen.count(b"first token after") == 2
        terminal.type(b"\x04")
        assert terminal.process.wait(DEADLINE) == 0


def test_ctrl_c_ends_the_reply_and_at_the_prompt_the_program(tmp_path):
    with Terminal(tmp_path, "{itl_ms: 20}", "--max-tokens", "100000") as terminal:
        terminal.wait_for(b">>> ")
        for turn in (1, 2):
            terminal.type(b"hello\n")
            said = len(terminal.screen)
            while len(terminal.screen) < said + 40:  # the echo, and then tokens
                terminal.screen += os.read(terminal.master, 65536)
            terminal.process.send_signal(signal.SIGINT)
            terminal.wait_for(b"(ended by Ctrl-C)", turn)
            terminal.wait_for(b">>> ", turn + 1)
        assert terminal.process.poll() is None
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(DEADLINE) == 130
        assert b"Traceback" not in terminal.screen
