"""`enginery_vllm.command`: what the flags are; that vLLM obeys them is in ``real``."""

from __future__ import annotations

import re
from pathlib import Path
from signal import SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import Endpoint, EngineStartFailed, Variant
from enginery_vllm.command import API_KEY_VARIABLE, READY_HINT, SERVE, build_command, engine_flags
from enginery_vllm.options import options_of

HERE = Endpoint("127.0.0.1", 8123, api_key="secret")


def command_of(endpoint=HERE, *, options=None, **variant):
    given_options = {"model": "x"} if options is None else options
    made = Variant(model="m", engine_type="vllm", options=options_of(given_options), **variant)
    return build_command(made, endpoint, ("python",))


def flag(command, name):
    return command.argv[list(command.argv).index(name) + 1]


def test_the_least_command_says_model_slots_name_address_and_guard() -> None:
    assert command_of().argv == (
        *("python", SERVE, "--model", "x", "--max-num-seqs", "1", "--served-model-name", "m"),
        *("--host", "127.0.0.1", "--port", "8123", "--middleware", "key_guard.KeyGuard"),
    )
    assert Path(SERVE).is_file()
    assert Path(SERVE).with_name("key_guard.py").is_file()


@given(
    context=st.none() | st.integers(1, 200_000),
    parallel=st.integers(1, 64),
    extra=st.lists(st.sampled_from(["--block-size", "32", "--swap", "--async-scheduling"])),
)
def test_the_variants_context_and_slots_are_passed_and_the_users_flags_come_last(
    context, parallel, extra
) -> None:
    command = command_of(
        options={"model": "x", "extra_args": extra}, context_length=context, parallel=parallel
    )
    assert ("--max-model-len" in command.argv) == (context is not None)
    if context is not None:
        assert flag(command, "--max-model-len") == str(context)
    assert flag(command, "--max-num-seqs") == str(parallel)
    assert list(command.argv[len(command.argv) - len(extra) :]) == extra
    assert all(isinstance(word, str) for word in command.argv)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "t"}, ["--tokenizer", "t"]),
        ({"dtype": "bfloat16"}, ["--dtype", "bfloat16"]),
        ({"tensor_parallel_size": 2}, ["--tensor-parallel-size", "2"]),
        ({"gpu_memory_utilization": 0.45}, ["--gpu-memory-utilization", "0.45"]),
        ({"kv_cache_gib": 1.5}, ["--kv-cache-memory-bytes", "1610612736"]),
        ({"cpu_offload_gib": 4}, ["--cpu-offload-gb", "4"]),
        ({"seed": 0}, ["--seed", "0"]),
        ({"runner": "pooling"}, ["--runner", "pooling"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"trust_remote_code": True}, ["--trust-remote-code"]),
        ({"enable_prefix_caching": True}, ["--enable-prefix-caching"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"sleep": True}, ["--enable-sleep-mode"]),
        ({"chat_template": "t.jinja"}, ["--chat-template", "t.jinja"]),
        (
            {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
            ["--tool-call-parser", "hermes", "--enable-auto-tool-choice"],
        ),
        ({"sleep": "pause"}, []),
    ],
)
def test_an_option_adds_its_flag_and_nothing_else(options, words) -> None:
    plain, with_it = command_of().argv, command_of(options={"model": "x", **options}).argv
    added = [word for word in with_it if word not in plain]
    assert added == words


def test_flags_of_the_engine_hold_nothing_of_the_server() -> None:
    variant = Variant(model="m", engine_type="vllm", context_length=64, parallel=3)
    options = options_of({"model": "x", "chat_template": "t", "extra_args": ["--block-size", "32"]})
    assert engine_flags(variant, options) == (
        *("--model", "x", "--max-model-len", "64", "--max-num-seqs", "3", "--block-size", "32"),
    )


def test_the_key_goes_into_the_environment_and_nowhere_else() -> None:
    command = command_of()
    assert command.env[API_KEY_VARIABLE] == "secret"
    assert not any("secret" in word for word in command.argv)
    assert API_KEY_VARIABLE not in command_of(Endpoint("h", 1)).env


def test_routes_that_command_are_open_only_where_it_sleeps() -> None:
    assert command_of().env["VLLM_SERVER_DEV_MODE"] == "0"
    for sleep in (True, "pause"):
        command = command_of(options={"model": "x", "sleep": sleep})
        assert command.env["VLLM_SERVER_DEV_MODE"] == "1"
        assert "--middleware" in command.argv


def test_it_reports_its_use_to_nobody() -> None:
    assert command_of().env["VLLM_NO_USAGE_STATS"] == "1"


def test_a_unix_socket_replaces_host_and_port() -> None:
    command = command_of(Endpoint("localhost", 0, "secret", "/run/x.sock"))
    assert flag(command, "--uds") == "/run/x.sock"
    assert "--host" not in command.argv
    assert "--port" not in command.argv


def test_the_served_name_is_what_bodies_are_given() -> None:
    assert flag(command_of(upstream_model="org/name"), "--served-model-name") == "org/name"


def test_a_variant_without_a_model_cannot_start() -> None:
    with pytest.raises(EngineStartFailed, match=r"options\.model is missing") as failure:
        command_of(options={})
    assert failure.value.param == "options.model"
    command_of(options={}, binary="/my/server", args=("--all", "of", "it"))


def test_it_has_ten_seconds_to_leave() -> None:
    assert command_of().stop_plan.signals == ((SIGTERM, 10.0),)


def test_the_hint_is_the_line_that_says_it_serves() -> None:
    line = "(APIServer pid=123) INFO:     Application startup complete."
    assert re.search(READY_HINT, line)
    assert not re.search(READY_HINT, "(APIServer pid=1) INFO:     Waiting for application startup.")
