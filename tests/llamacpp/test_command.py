"""`enginery_llamacpp.command`: what the flags are; that llama.cpp obeys them is in test_real_engine."""

from __future__ import annotations

import re
from signal import SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import Endpoint, EngineStartFailed, Variant
from enginery_llamacpp.command import API_KEY_VARIABLE, READY_HINT, build_command
from enginery_llamacpp.options import options_of

HERE = Endpoint("127.0.0.1", 8123, api_key="secret")


def command_of(endpoint=HERE, *, options=None, **variant):
    given_options = {"model": "x.gguf"} if options is None else options
    made = Variant(model="m", engine_type="llama.cpp", options=options_of(given_options), **variant)
    return build_command(made, endpoint, ("llama-server",))


def flag(command, name):
    return command.argv[list(command.argv).index(name) + 1]


def test_the_least_command_says_model_address_name_and_slots() -> None:
    assert command_of().argv == (
        "llama-server",
        *("--model", "x.gguf", "--host", "127.0.0.1", "--port", "8123", "--alias", "m", "-np", "1"),
    )


@given(
    context=st.integers(1, 200_000),
    parallel=st.integers(1, 64),
    threads=st.none() | st.integers(1, 64),
    layers=st.none() | st.integers(0, 200) | st.sampled_from(["auto", "all"]),
    extra=st.lists(st.sampled_from(["-fa", "on", "--jinja", "--mlock"])),
)
def test_each_request_gets_the_variants_context_and_the_users_flags_come_last(
    context, parallel, threads, layers, extra
) -> None:
    options = {"model": "x", "threads": threads, "gpu_layers": layers, "extra_args": extra}
    command = command_of(options=options, context_length=context, parallel=parallel)
    assert int(flag(command, "-c")) == context * parallel
    assert flag(command, "-np") == str(parallel)
    assert list(command.argv[len(command.argv) - len(extra) :]) == extra
    assert ("--threads" in command.argv) == (threads is not None)
    assert ("--gpu-layers" in command.argv) == (layers is not None)
    assert all(isinstance(word, str) for word in command.argv)


def test_the_key_goes_into_the_environment_and_nowhere_else() -> None:
    command = command_of()
    assert command.env == {API_KEY_VARIABLE: "secret"}
    assert not any("secret" in word for word in command.argv)
    assert not command_of(Endpoint("h", 1)).env


@pytest.mark.parametrize("option", ["embedding", "reranking"])
def test_an_input_as_long_as_the_context_fits_one_batch(option) -> None:
    command = command_of(options={"model": "x", option: True}, context_length=3000, parallel=2)
    assert f"--{option}" in command.argv
    # 3,000 is rounded up to llama.cpp's multiple of 256, as its context is.
    assert flag(command, "-b") == flag(command, "-ub") == "3072"
    assert flag(command_of(options={"model": "x", option: True}), "-ub") == "8192"


def test_a_variant_without_a_model_cannot_start() -> None:
    with pytest.raises(EngineStartFailed, match=r"options\.model is missing") as failure:
        command_of(options={}, url="http://127.0.0.1:1")
    assert failure.value.param == "options.model"


def test_it_is_asked_to_leave_twice() -> None:
    numbers = [number for number, _ in command_of().stop_plan.signals]
    assert numbers == [SIGTERM, SIGTERM]


def test_a_socket_takes_the_place_of_the_host() -> None:
    command = command_of(Endpoint("127.0.0.1", 1, unix_path="/run/m.sock"))
    assert flag(command, "--host") == "/run/m.sock"


def test_the_ready_hint_fits_what_both_servers_print() -> None:
    for line in (
        "0.00.026.162 I srv          init: listening on http://127.0.0.1:18081",
        "enginery_llamacpp.server: listening on http://127.0.0.1:18081",
    ):
        assert re.search(READY_HINT, line)
