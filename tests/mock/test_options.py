from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

import enginery_mock
from enginery import (
    AuthenticationFailed,
    ContextLengthExceeded,
    Endpoint,
    EngineBusy,
    EngineLoading,
    EngineRequest,
    Memory,
    Variant,
)
from enginery.plugins.checks import check_plugin
from enginery_mock import MockEngine, MockPlugin
from enginery_mock.flags import API_KEY_VARIABLE, DEVICES_VARIABLE, ServerConfig, parse
from enginery_mock.options import MockOptions, options_of

HERE = Endpoint("127.0.0.1", 9000, api_key="s3cret")
NO_FLAG = "in_process"
"""Another server runs it then."""

EVERY_OPTION: dict[str, Any] = {
    "seed": 7,
    "ttft_ms": 12.5,
    "itl_ms": 1234567.25,
    "max_queue": 0,
    "load_ms": 100,
    "load_exit_code": 0,
    "hang_in_load": True,
    "ignore_sigterm": True,
    "never_die": True,
    "die_at_frame": 3,
    "crash_after_tokens": 5,
    "flood_log": "max",
    "fork_grandchild": "setsid",
    "lie_on_health": "stuck",
    "stuck_after_requests": 2,
    "hold_port": 1.5,
    "memory": {"gpu0": 8 * 2**30, "ram": 0},
    "memory_asleep": {"ram": 1},
    "memory_late_ms": 20.5,
    "sleep_levels": (1, 2),
    "sleep_ms": 3.0,
    "wake_ms": 4.0,
}
OTHER_VALUES = [
    ("flood_log", 1_000_000),
    ("fork_grandchild", "pipes"),
    ("lie_on_health", "loading"),
    ("memory", {}),
    ("sleep_levels", (0,)),
]


def test_every_option_is_described_and_means_the_same_on_the_command_line() -> None:
    server = ServerConfig()
    for name, field in MockOptions.model_fields.items():
        assert field.description
        if name == NO_FLAG:
            continue
        assert field.default == getattr(server, name), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"ttft_ms": -1},
        {"itl_ms": float("nan")},
        {"load_ms": 10**9},
        {"load_exit_code": 256},
        {"max_queue": -1},
        {"die_at_frame": 0},
        {"speed": 3},
        {"crash_after_tokens": 0},
        {"flood_log": 0},
        {"flood_log": "fast"},
        {"fork_grandchild": "twins"},
        {"lie_on_health": True},
        {"hold_port": -1},
        {"memory": "much"},
        {"memory": {"gpu0": -1}},
        {"memory": {"gpu0,gpu1": 1}},
        {"memory_late_ms": float("inf")},
        {"sleep_levels": [3]},
    ],
)
def test_values_out_of_bounds_and_unknown_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options_of(wrong)


def test_options_may_come_typed_or_as_a_mapping_and_as_nothing_else() -> None:
    assert options_of(MockOptions(seed=3)) == options_of({"seed": 3})
    with pytest.raises(TypeError, match="mapping"):
        options_of([])


def test_the_server_reads_back_every_option_that_the_plugin_wrote() -> None:
    variant = Variant(
        "tiny", engine_type="mock", context_length=512, parallel=3, options=EVERY_OPTION
    )
    command = MockPlugin().build_command(variant, HERE)
    assert [*EVERY_OPTION] == [name for name in MockOptions.model_fields if name != NO_FLAG]
    assert parse(command.argv[4:], command.env) == ServerConfig(
        host="127.0.0.1",
        port=9000,
        model="tiny",
        slots=3,
        context_length=512,
        api_key="s3cret",
        **EVERY_OPTION,
    )


@pytest.mark.parametrize(("name", "value"), [*EVERY_OPTION.items(), *OTHER_VALUES], ids=str)
def test_each_option_has_a_flag_and_comes_back_alone(name: str, value: Any) -> None:
    command = MockPlugin().build_command(Variant("m", options={name: value}), HERE)
    assert f"--{name.replace('_', '-')}" in command.argv
    found = parse(command.argv[4:], command.env)
    assert getattr(found, name) == value
    others = set(MockOptions.model_fields) - {name, NO_FLAG}
    assert all(getattr(found, other) == getattr(ServerConfig(), other) for other in others)


def test_sizes_may_be_words_and_a_bare_size_is_one_of_the_first_gpu() -> None:
    options = options_of({"memory": "8GiB", "memory_asleep": {"ram": "1MiB"}, "flood_log": "2KiB"})
    assert options.memory == {"gpu0": 2**33}
    assert options.memory_asleep == {"ram": 2**20}
    assert options.flood_log == 2048


def test_the_estimate_of_memory_is_what_the_options_pretend() -> None:
    def memory(**options: Any) -> Memory | None:
        return MockPlugin().estimate_memory(Variant("m", options=options))

    assert memory() is None
    assert memory(memory=5) == Memory({"gpu0": 5})
    assert memory(memory={"a": 1}, memory_asleep={"b": 2}) == Memory({"a": 1}, {"b": 2})


def test_the_directory_of_devices_comes_from_the_environment() -> None:
    assert parse([], {DEVICES_VARIABLE: "/tmp/devices"}).devices == "/tmp/devices"
    assert parse([], {}).devices is None


def test_options_at_their_default_are_not_written() -> None:
    command = MockPlugin().build_command(Variant("m", engine_type="mock"), HERE)
    assert [word for word in command.argv if word.startswith("--")] == [
        "--host",
        "--port",
        "--model",
        "--slots",
    ]


def test_the_key_is_in_the_environment_and_not_on_the_command_line() -> None:
    command = MockPlugin().build_command(Variant("m"), HERE)
    assert command.env == {API_KEY_VARIABLE: "s3cret"}
    assert not any("s3cret" in word for word in command.argv)
    assert MockPlugin().build_command(Variant("m"), Endpoint("127.0.0.1", 9000)).env == {}


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--slots", "0"),
        ("--port", "-1"),
        ("--ttft-ms", "inf"),
        ("--itl-ms", "-1"),
        ("--seed", "x"),
        ("--memory", "gpu0"),
        ("--flood-log", "0"),
        ("--sleep-levels", "one"),
        ("--lie-on-health", "x"),
    ],
)
def test_the_command_line_refuses_what_makes_no_sense(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([flag, value])
    assert flag in capsys.readouterr().err


def test_the_plugin_is_one_that_discovery_accepts() -> None:
    assert "build_command" in check_plugin(MockPlugin())


def test_the_demo_is_a_valid_variant() -> None:
    demo = dict(MockPlugin().demo_variant())
    options = options_of(demo.pop("options"))
    assert options.load_exit_code is None
    assert Variant("demo", options=options, **demo).parallel == 2


def test_the_estimate_is_exact() -> None:
    body = {"messages": [{"role": "user", "content": "Hello, world"}]}
    assert (
        MockPlugin().estimate_tokens(EngineRequest("/v1/chat/completions", body), Variant("m"))
        == 10
    )


def test_overflow_is_recognised_with_both_numbers() -> None:
    body = (
        b'{"error":{"code":400,"message":"request (90 tokens) exceeds","type":'
        b'"exceed_context_size_error","n_prompt_tokens":90,"n_ctx":64}}'
    )
    error = MockPlugin().parse_error(400, body)
    assert isinstance(error, ContextLengthExceeded)
    assert (error.prompt_tokens, error.context_length) == (90, 64)


@pytest.mark.parametrize(
    ("status", "kind", "code", "meaning"),
    [
        (503, "unavailable_error", 503, EngineLoading),
        (503, "server_error", "engine_busy", EngineBusy),
        (401, "authentication_error", "invalid_api_key", AuthenticationFailed),
        (400, "invalid_request_error", "invalid_request_error", type(None)),
    ],
)
def test_other_errors_mean_what_they_say(status: int, kind: str, code: Any, meaning: type) -> None:
    body = json.dumps({"error": {"message": "so", "type": kind, "code": code}}).encode()
    assert isinstance(MockPlugin().parse_error(status, body), meaning)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error":"no"}', b'{"error":null}'])
def test_a_body_that_is_no_error_means_nothing(body: bytes) -> None:
    assert MockPlugin().parse_error(500, body) is None


@pytest.mark.parametrize("url", ["ftp://here:1", "here:1", "http://here:1?x", ""])
def test_a_client_refuses_an_address_that_it_cannot_use(url: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        MockEngine(url)


@pytest.mark.parametrize("url", ["https://here:1", "http+unix://%2Frun%2Fx.sock"])
def test_a_client_may_be_given_any_address_that_settings_may_hold(url: str) -> None:
    assert MockEngine(url).base_url == url


def test_the_package_offers_what_it_lists() -> None:
    assert enginery_mock.__all__ == sorted(enginery_mock.__all__)
    assert all(hasattr(enginery_mock, name) for name in enginery_mock.__all__)
    with pytest.raises(AttributeError):
        _ = enginery_mock.nothing
