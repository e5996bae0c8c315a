"""From a variant and its plugin's command to the command that is run."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import hookimpl
from enginery.engine.command import command_for, fill
from enginery.enginecore.served import Served, variant_of
from enginery.errors import EngineStartFailed
from enginery.plugins import EngineHooks
from enginery.values import Command, Endpoint, StopPlan, Variant

ENDPOINT = Endpoint("127.0.0.1", 8081)
PLAN = StopPlan(((int(signal.SIGINT), 3.0),))
PLUGINS = Command(
    ["server", "--plain"],
    env={"A": "plugin", "B": "plugin"},
    cwd="/plugin",
    health_path="/ok",
    ready_hint="listening",
    stop_plan=PLAN,
    stop_argv=["docker", "stop"],
    check_argv=["server", "--version"],
    log_level="debug",
)


class Plugin:
    @hookimpl
    def build_command(self) -> Command:
        return PLUGINS


HOOKS = EngineHooks(Plugin(), "fake")
NONE = EngineHooks(object(), "fake", command_required=False)


@given(st.lists(st.text()), st.text())
def test_filling_in_touches_nothing_but_the_three_words(args, model) -> None:
    known = ("{host}", "{port}", "{model}")
    filled = fill(args, ENDPOINT, model)
    assert len(filled) == len(args)
    for before, after in zip(args, filled, strict=True):
        if not any(word in before for word in known):
            assert after == before


@given(
    st.lists(st.sampled_from(["{host}", "{port}", "{model}", "{", "}", "{{port}}", "x", '{"a":1}']))
)
def test_filling_in_is_one_pass_so_a_models_name_is_never_filled_in_itself(pieces) -> None:
    (got,) = fill(["".join(pieces)], ENDPOINT, "{port}{host}")
    values = {"{host}": "127.0.0.1", "{port}": "8081", "{model}": "{port}{host}"}
    assert got == "".join(values.get(p, p).replace("{{port}}", "{8081}") for p in pieces)


@pytest.mark.parametrize(
    ("binary", "args", "argv"),
    [
        (None, (), ["server", "--plain"]),
        ("mine", (), ["mine", "--plain"]),
        ("mine", ("--p={port}", "{model}"), ["mine", "--p=8081", "m"]),
        (None, ("--extra", "{host}"), ["server", "--plain", "--extra", "127.0.0.1"]),
    ],
)
def test_binary_and_args_change_the_command_line(binary, args, argv) -> None:
    command = command_for(HOOKS, Variant("m", binary=binary, args=args), ENDPOINT)
    assert list(command.argv) == argv
    kept = ("health_path", "ready_hint", "stop_plan", "stop_argv", "log_level")
    assert [getattr(command, name) for name in kept] == [getattr(PLUGINS, name) for name in kept]


@pytest.mark.parametrize(
    ("binary", "args", "check"),
    [
        (None, (), ["server", "--version"]),
        (None, ("-x",), ["server", "--version"]),
        ("mine", (), ["mine", "--version"]),
        ("mine", ("-x",), []),
    ],
)
def test_what_asks_the_program_about_itself_follows_the_program(binary, args, check) -> None:
    command = command_for(HOOKS, Variant("m", binary=binary, args=args), ENDPOINT)
    assert list(command.check_argv) == check


@pytest.mark.parametrize("binary", [None, "mine"])
@pytest.mark.parametrize("args", [(), ("-x",)])
@pytest.mark.parametrize("env", [{}, {"B": "{port}", "C": "user"}])
@pytest.mark.parametrize("work_dir", [None, "/user"])
def test_environment_and_directory_are_the_plugins_with_the_users_on_top(
    binary, args, env, work_dir
) -> None:
    variant = Variant("m", binary=binary, args=args, env=env, work_dir=work_dir)
    command = command_for(HOOKS, variant, ENDPOINT)
    assert command.env == {"A": "plugin", "B": "plugin", **env}
    assert command.cwd == (work_dir or "/plugin")


def test_the_plugins_own_command_is_not_changed() -> None:
    command_for(HOOKS, Variant("m", binary="mine", args=("-x",), env={"A": "b"}), ENDPOINT)
    assert PLUGINS.argv == ["server", "--plain"]
    assert PLUGINS.env == {"A": "plugin", "B": "plugin"}


def test_a_variant_brings_the_whole_command_where_the_plugin_has_none() -> None:
    variant = Variant("m", binary="mine", args=("--port", "{port}"), env={"A": "b"}, work_dir="/w")
    assert command_for(NONE, variant, ENDPOINT) == Command(
        ["mine", "--port", "8081"], env={"A": "b"}, cwd="/w"
    )


def test_a_variant_says_how_its_container_is_stopped() -> None:
    variant = Variant("m", binary="docker", args=("run",), stop_argv=("docker", "stop", "{model}"))
    assert command_for(NONE, variant, ENDPOINT).stop_argv == ["docker", "stop", "m"]
    assert command_for(HOOKS, variant, ENDPOINT).stop_argv == ["docker", "stop", "m"]


def test_no_command_at_all_says_what_to_set() -> None:
    with pytest.raises(EngineStartFailed, match="`binary` and `args`"):
        command_for(NONE, Variant("m", args=("-x",)), ENDPOINT)


SOCKET = Endpoint("localhost", 0, unix_path="/run/x.sock")


def test_the_socket_is_filled_in_only_where_there_is_one() -> None:
    assert fill(["--uds={socket}", "{port}"], SOCKET, "m") == ["--uds=/run/x.sock", "0"]
    assert fill(["--uds={socket}"], ENDPOINT, "m") == ["--uds={socket}"]


def test_an_engine_that_does_not_say_where_its_socket_is_offers_none() -> None:
    variant = Variant("m", engine_type="fake", listen="unix")
    with pytest.raises(
        EngineStartFailed, match="engine 'fake' offers no unix socket: set `listen: tcp`"
    ):
        command_for(HOOKS, variant, SOCKET)
    told = Variant("m", engine_type="fake", listen="unix", args=("--unix", "unix:{socket}"))
    assert command_for(HOOKS, told, SOCKET).argv[-1] == "unix:/run/x.sock"


class Backend:
    @hookimpl
    def create_backend(self):
        raise AssertionError("not here: it is made in the engine's own process")


BACKEND = EngineHooks(Backend(), "fake", allow=["a"], deny=["b"])


@pytest.mark.parametrize("endpoint", [ENDPOINT, SOCKET])
def test_a_plugin_with_only_a_backend_is_run_by_the_core_server(endpoint) -> None:
    variant = Variant("m", engine_type="fake", options={"x": 1}, env={"A": "b"}, work_dir="/w")
    command = command_for(BACKEND, variant, replace(endpoint, api_key="s3cret"))
    assert command.argv[:4] == (sys.executable, "-P", "-m", "enginery.coreserver")
    assert not any("s3cret" in word for word in command.argv)
    assert (command.env["A"], command.cwd, command.health_path) == ("b", "/w", "/health")
    served = Served.from_environment(command.env)
    assert (served.engine_type, served.allow, served.deny) == ("fake", ("a",), ("b",))
    assert variant_of(served.variant) == variant


def test_a_backend_takes_no_arguments() -> None:
    with pytest.raises(EngineStartFailed, match="takes no `args`"):
        command_for(BACKEND, Variant("m", engine_type="fake", args=("-x",)), ENDPOINT)


def test_a_binary_goes_before_the_backend() -> None:
    variant = Variant("m", engine_type="fake", binary="mine")
    assert command_for(BACKEND, variant, ENDPOINT).argv == ["mine"]
