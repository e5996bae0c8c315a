"""`enginery.engine.preflight`: what can be told of a start before anybody asks for it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from enginery import hookimpl
from enginery.engine.preflight import ask_program, startable
from enginery.errors import EngineStartFailed
from enginery.plugins import EngineHooks
from enginery.values import Command, Endpoint, Variant

VARIANT = Variant("m", engine_type="fake")


def hooks_of(command: Command | Exception) -> EngineHooks:
    class Plugin:
        @hookimpl
        def build_command(self, endpoint: Endpoint) -> Command:
            if isinstance(command, Exception):
                raise command
            return replace(command, argv=[*command.argv, endpoint.unix_path or str(endpoint.port)])

    return EngineHooks(Plugin(), "fake")


@pytest.mark.parametrize("listen", ["tcp", "unix"])
def test_an_engine_whose_program_is_there_could_start(listen) -> None:
    command = startable(hooks_of(Command([sys.executable])), replace(VARIANT, listen=listen))
    assert command.argv[0] == sys.executable


def test_what_the_plugin_misses_is_told_in_its_words() -> None:
    missing = EngineStartFailed("m: get a fake from its shop")
    with pytest.raises(EngineStartFailed, match="get a fake from its shop"):
        startable(hooks_of(missing), VARIANT)


@pytest.mark.parametrize("program", ["/nowhere/bin/fake", "no-such-program", "bin/fake"])
def test_a_program_that_is_not_there_is_named(program, tmp_path) -> None:
    with pytest.raises(EngineStartFailed, match=f"m/default: {program} is not there"):
        startable(hooks_of(Command([program], cwd=str(tmp_path))), VARIANT)


def test_a_program_that_may_not_be_run_is_none(tmp_path) -> None:
    (tmp_path / "fake").write_text("#!/bin/sh\n")
    with pytest.raises(EngineStartFailed, match="may not be run"):
        startable(hooks_of(Command([str(tmp_path / "fake")])), VARIANT)


def test_a_program_is_looked_for_where_the_start_would_look(tmp_path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fake").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "fake").chmod(0o755)
    below_its_directory = Command(["bin/fake"], cwd=str(tmp_path))
    on_its_path = Command(["fake"], env={"PATH": str(tmp_path / "bin")})
    for command in (below_its_directory, on_its_path):
        assert startable(hooks_of(command), VARIANT).argv[0] == command.argv[0]


def test_a_directory_that_is_not_there_is_named(tmp_path) -> None:
    variant = replace(VARIANT, work_dir=str(tmp_path / "gone"))
    with pytest.raises(EngineStartFailed, match="gone; correct `work_dir`"):
        startable(hooks_of(Command([sys.executable])), variant)


def asking(program: str, **env: str) -> Command:
    return Command(["unused"], env=env, check_argv=[sys.executable, "-c", program])


def test_the_last_line_is_what_a_program_says_of_itself() -> None:
    said = asking(
        "import os; print('hello'); print('\\x1b[1mfake', os.environ['V']); print()", V="7"
    )
    assert ask_program(said) == "fake 7"


def test_a_program_that_says_nothing_runs_at_least() -> None:
    assert ask_program(asking("")) == f"{sys.executable} runs"


def test_what_it_misses_is_told_in_its_words() -> None:
    with pytest.raises(EngineStartFailed, match=r"^\S+: torch is missing$"):
        ask_program(asking("import sys; sys.exit('torch is missing')"))


def test_a_status_without_words_is_told() -> None:
    with pytest.raises(EngineStartFailed, match="ends with status 3"):
        ask_program(asking("import sys; sys.exit(3)"))


def test_nobody_waits_for_ever() -> None:
    with pytest.raises(EngineStartFailed, match="says nothing for"):
        ask_program(asking("import time; time.sleep(600)"), patience=0.2)


def test_what_cannot_be_run_is_told() -> None:
    with pytest.raises(EngineStartFailed, match="cannot be run"):
        ask_program(Command(["unused"], check_argv=["/nowhere/fake"]))
