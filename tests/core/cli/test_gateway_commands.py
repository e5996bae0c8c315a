"""The commands that ask a running gateway, as people see them on a terminal and programs through a pipe."""

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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from support.command_line import Done

DEADLINE = 30.0
QUICK = "ttft_ms: 0, itl_ms: 0"
CONFIG = """
server: {api_keys: [sesame-open], admin_keys: [sesame-admin]}
defaults: {engine: mock}
models:
  m: {aliases: [short], context_length: 2048, options: {ttft_ms: 0, itl_ms: 0}}
  broken: {options: {load_exit_code: 3}}
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Served:
    """``enginery serve`` in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        config: str | None,
        *options: str,
        program: Sequence[str] = ("-m", "enginery.cli"),
    ) -> None:
        self.file = directory / "enginery.yaml"
        if config is not None:
            self.file.write_text(config)
        self.log = directory / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "serve", "--port", "0", *options],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: "Serving" in self.printed())
        self.url = re.search(r"http://\S+", self.printed())[0]

    def printed(self) -> str:
        return self.log.read_text()

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("serve"), CONFIG)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def enginery(served, command_line) -> Callable[..., Done]:
    """Runs the command for the gateway that is served."""
    environ = {"ENGINERY_URL": served.url, "ENGINERY_API_KEY": "sesame-admin", "TERM": "xterm"}
    return partial(command_line, **environ)


def test_load_ps_models_and_unload_tell_the_same_story_on_a_terminal_and_through_a_pipe(enginery):
    for terminal in (False, True):
        done = enginery("load", "short", terminal=terminal)
        assert done.code == 0
        assert re.split(r"[\r\n]+", done.out.strip())[-1] == "m/default is ready"
        done = enginery("ps", terminal=terminal)
        assert done.code == 0
        titles, row = [line.split() for line in COLOUR.sub("", done.out).splitlines()[:2]]
        assert titles[:3] == ["ID", "ENGINE", "STATE"]
        assert row[:3] == ["m/default", "mock", "ready"]
        assert bool(COLOUR.search(done.out)) is terminal
        done = enginery("models", terminal=terminal)
        assert done.code == 0
        lines = [line.split() for line in COLOUR.sub("", done.out).splitlines()]
        assert lines[:2] == [
            ["MODEL", "STATE", "CONTEXT", "ALIASES"],
            ["m", "loaded", "2048", "short"],
        ]
        done = enginery("unload", "m", "--now", terminal=terminal)
        assert done.code == 0
        assert re.split(r"[\r\n]+", done.out.strip())[-1] == "m/default is stopped"


def test_no_color_means_none(enginery):
    enginery("load", "m")
    assert not COLOUR.search(enginery("ps", terminal=True, NO_COLOR="1").out)
    assert COLOUR.search(enginery("ps", terminal=True).out)


def test_what_reads_can_be_read_by_programs(enginery):
    enginery("load", "m")
    (row,) = [r for r in json.loads(enginery("ps", "--json").out) if r["id"] == "m/default"]
    assert row["state"] == "ready"
    cards = json.loads(enginery("models", "--json").out)
    assert [card["id"] for card in cards] == ["m", "broken"]
    assert json.loads(enginery("load", "m", "--json").out)["id"] == "m/default"
    assert json.loads(enginery("config", "plan", "--json").out)["variants"] == []
    assert json.loads(enginery("unload", "m", "--json").out)["state"] == "stopped"


def test_logs_are_lines_of_the_engine(enginery):
    enginery("load", "m")
    for terminal in (False, True):
        done = enginery("logs", "m", "-n", "2", terminal=terminal)
        assert done.code == 0
        assert len(done.out.splitlines()) == 2
        assert "enginery-mock" in done.out


def test_exit_codes_tell_failed_wrong_usage_and_nobody_there(enginery):
    failed = enginery("load", "broken")
    assert failed.code == 1
    assert "exit status 3" in failed.err
    unknown = enginery("logs", "nothing")
    assert unknown.code == 1
    assert "no model 'nothing'" in unknown.err
    refused = enginery("ps", "--api-key", "sesame-open")
    assert refused.code == 1
    assert "admin" in refused.err
    assert enginery("ps", "--interval", "0").code == 2
    assert enginery("ps", "--url", "not-a-url").code == 2
    assert enginery("config", "plan", "one.yaml").code == 2
    for words in (["ps"], ["load", "m"], ["logs", "m"], ["config", "plan"]):
        done = enginery(*words, "--url", "http://127.0.0.1:1")
        assert done.code == 3, words
        assert "no gateway at http://127.0.0.1:1: " in done.err


def test_a_failed_engine_is_told_with_its_reason(enginery):
    enginery("load", "broken")
    done = enginery("ps", terminal=True)
    assert "\x1b[31m" in done.out
    assert "broken/default: " in done.out
    assert "exit status 3" in done.out


def test_run_asks_the_gateway_that_is_there_and_does_it_alone_where_none_is(enginery, tmp_path):
    done = enginery("run", "short", "hello", "--max-tokens", "4")
    assert done.code == 0, done.err
    assert done.out.strip()
    (row,) = [r for r in json.loads(enginery("ps", "--json").out) if r["id"] == "m/default"]
    assert row["state"] == "ready"
    unknown = enginery("run", "nothing", "hello")
    assert unknown.code == 1
    assert "no model 'nothing'" in unknown.err
    config = tmp_path / "own.yaml"
    config.write_text(f"models: {{own: {{engine: mock, options: {{{QUICK}}}}}}}\n")
    alone = enginery("run", "own", "hello", "--config", str(config), "--url", "http://127.0.0.1:1")
    assert alone.code == 0, alone.err
    assert "no gateway at http://127.0.0.1:1: with an engine of its own" in alone.err


def test_config_show_hides_secrets_and_schema_is_one(enginery, served):
    for terminal in (False, True):
        done = enginery("config", "show", str(served.file), terminal=terminal)
        assert done.code == 0
        assert "sesame" not in done.out + done.err
        assert "'***'" in done.out
        assert "max_wait: 30" in done.out
    shown = json.loads(enginery("config", "show", str(served.file), "--json").out)
    assert shown["server"]["admin_keys"] == [{"key": "***"}]
    schema = json.loads(enginery("config", "schema").out)
    assert set(schema["properties"]) == {"server", "defaults", "budget", "plugins", "models"}


def test_two_files_are_compared_without_a_gateway(enginery, served, tmp_path):
    new = tmp_path / "new.yaml"
    new.write_text(CONFIG.replace("ttft_ms: 0", "ttft_ms: 7").replace("sesame-open", "other-key"))
    done = enginery("config", "plan", str(served.file), str(new), "--url", "http://127.0.0.1:1")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "! m/default restarted (options)"
    assert lines[1].startswith("    - ")
    assert lines[2].startswith("    + ")
    assert "--ttft-ms 7" in lines[2]
    assert "--port FREE_PORT" in lines[2]
    assert "  models.m.options.ttft_ms: 0 → 7" in lines
    assert "other-key" not in done.out
    assert "\x1b[33m" in enginery("config", "plan", str(served.file), str(new), terminal=True).out


def test_completion_knows_commands_and_options(enginery):
    words = {"_ENGINERY_COMPLETE": "bash_complete", "COMP_CWORD": "1"}
    assert enginery(COMP_WORDS="enginery un", **words).out == "plain,unload\n"
    words["COMP_CWORD"] = "2"
    assert enginery(COMP_WORDS="enginery logs --fol", **words).out == "plain,--follow\n"


def interrupted(words: list[str], seen: bytes, times: int = 1, **environ: str) -> tuple[int, bytes]:
    """The exit code of a command that gets Ctrl-C once its terminal has shown ``seen`` so often, and its last words."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "enginery.cli", *words],
        env={**os.environ, **environ},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen, deadline = b"", time.monotonic() + DEADLINE
    try:
        while screen.count(seen) < times:
            assert time.monotonic() < deadline, screen
            if select.select([master], [], [], 0.1)[0]:
                screen += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        code, last = process.wait(DEADLINE), b""
        with contextlib.suppress(OSError):  # the other side is closed
            while select.select([master], [], [], DEADLINE)[0] and (data := os.read(master, 65536)):
                last += data
        return code, last
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(master)


def test_ps_is_drawn_anew_and_logs_go_on_until_ctrl_c_which_is_no_news_of_an_engine(
    served, enginery
):
    enginery("load", "m")
    environ = {"ENGINERY_URL": served.url, "ENGINERY_API_KEY": "sesame-admin"}
    again = b"\x1b[H\x1b[2J"
    for words, seen, times in (
        (["ps", "--watch", "--interval", "0.1"], again, 3),
        (["logs", "-f", "m"], b"enginery-mock", 1),
    ):
        code, last = interrupted(words, seen, times, **environ)
        assert code == 130
        assert b"stopped" not in last


def test_the_demo_on_a_terminal_serves_until_ctrl_c():
    assert interrupted(["demo", "--port", "0"], b"Serving until Ctrl-C.")[0] == 0


def test_signals_and_the_watched_file_make_serve_read_its_settings_again(tmp_path):
    text = f"models: {{m: {{engine: mock, options: {{{QUICK}}}}}}}\n"
    served = Served(tmp_path, text, "--watch")
    try:
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: "settings reloaded: 0 settings" in served.printed())
        beside = tmp_path / "new.yaml"
        beside.write_text(text.replace("m:", "n:", 1))
        beside.replace(served.file)
        served.until(lambda: "n/default added, m/default removed" in served.printed())
        served.file.write_text("models: {m: {engine: mock, parallel: many}}\n")
        served.process.send_signal(signal.SIGHUP)
        served.until(lambda: "enginery.yaml:1:38: models.m.parallel: " in served.printed())
        assert "the settings are left as they were: " in served.printed()
    finally:
        served.stop()


IMPATIENT = """
import os, signal, sys
import click
from enginery.cli import main

echo = click.echo

def echo_and_reload(message=None, **how):
    echo(message, **how)
    if str(message).startswith("Serving"):
        os.kill(os.getpid(), signal.SIGHUP)

click.echo = echo_and_reload
sys.argv[0] = "enginery"
main()
"""


def test_whoever_hears_that_it_serves_may_have_it_read_its_settings_again_at_once(tmp_path):
    text = f"models: {{m: {{engine: mock, options: {{{QUICK}}}}}}}\n"
    served = Served(tmp_path, text, program=["-c", IMPATIENT])
    try:
        served.until(lambda: "settings reloaded: 0 settings" in served.printed())
    finally:
        served.stop()


def test_a_model_file_is_served_and_without_anything_the_demos_are(enginery, tmp_path):
    import enginery_llamacpp

    gguf = Path(enginery_llamacpp.__file__).with_name("data") / "micro-pydoc.gguf"
    missing = enginery("serve", str(tmp_path / "nope.gguf"))
    assert missing.code == 2
    assert "there is no file" in missing.err
    other = tmp_path / "notes.txt"
    other.write_text("no model")
    assert "no plugin knows what to do with" in enginery("serve", str(other)).err
    for config, options, names in (
        ("{}\n", [str(gguf)], ["micro-pydoc"]),
        (None, [], ["demo-llama.cpp", "demo-mock"]),
    ):
        directory = tmp_path / str(len(names))
        directory.mkdir()
        served = Served(directory, config, *options)
        try:
            cards = json.loads(enginery("models", "--json", "--url", served.url).out)
            assert [card["id"] for card in cards] == names
        finally:
            served.stop()


def test_the_demo_without_a_terminal_runs_its_lines_and_ends(enginery):
    done = enginery("demo", "--port", "0")
    assert done.code == 0, done.err
    assert "curl -sS --fail-with-body http://127.0.0.1:" in done.out
    assert "/ui" in done.out
    assert "demo-llama.cpp: Lists are mutable sequences" in done.out
    assert "demo-mock: " in done.out
