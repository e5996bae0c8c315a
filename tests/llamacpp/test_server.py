"""`enginery_llamacpp.server`, the bundled llama-server, as the program that it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from enginery_llamacpp.binary import BUNDLED_SERVER
from enginery_llamacpp.server import ARGPARSE_VARIABLE, locate_params
from enginery_llamacpp.validation import CHAT

SUBSET = {ARGPARSE_VARIABLE: "1"}
PARSERS = pytest.mark.parametrize("env", [{}, SUBSET], ids=["native", "argparse"])


def run(*arguments: str, env=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BUNDLED_SERVER, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@PARSERS
def test_a_wrong_flag_ends_it_with_1_and_the_flags_name(env) -> None:
    done = run("--bogus", env=env)
    assert done.returncode == 1
    assert "--bogus" in done.stderr.splitlines()[-1]


def test_a_wrong_value_ends_it_with_1() -> None:
    assert run("--ctx-size", "many").returncode == 1


def test_a_wrong_variable_of_llama_cpp_ends_it_with_1() -> None:
    done = run("--model", "x", env={"LLAMA_ARG_CTX_SIZE": "many"})
    assert done.returncode == 1
    assert "LLAMA_ARG_CTX_SIZE" in done.stderr


@PARSERS
def test_a_missing_model_ends_it_with_1_and_llama_cpps_own_lines(env) -> None:
    done = run("--model", "/no/such.gguf", "--port", "0", env=env)
    assert done.returncode == 1
    assert "failed to load model, '/no/such.gguf'" in "".join(done.stderr.splitlines()[-5:])


def test_no_model_at_all_ends_it_with_1() -> None:
    done = run()
    assert done.returncode == 1
    assert "--model" in done.stderr


def test_a_port_in_use_ends_it_with_1(chat) -> None:
    model = chat.variant.options["model"]
    done = run("--model", model, "--port", str(chat.endpoint.port), "-t", "1", "-c", "256")
    assert done.returncode == 1
    assert "couldn't bind" in done.stderr


@PARSERS
def test_its_version_is_printed(env) -> None:
    done = run("--version", env=env)
    assert done.returncode == 0
    assert "version" in done.stdout + done.stderr or "xllamacpp" in done.stdout


def test_help_is_llama_cpps_own() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--ctx-size" in done.stdout


def test_the_subset_of_flags_serves_too(start) -> None:
    with start("tiny-chat", parallel=2, env=SUBSET) as server:
        slots = server.request("/slots").json()
        assert [slot["n_ctx"] for slot in slots] == [1024, 1024]
        assert server.request("/v1/models").json()["data"][0]["id"] == "tiny"
        assert server.request("/v1/models", key=None).status == 401
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        assert server.request(CHAT, body).status == 200
        assert server.stop() == 0
        assert not any("layout" in line for line in server.lines)


def test_params_are_found_and_left_as_they_were() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    before = (params.n_predict, params.n_ctx, params.n_batch, params.n_ubatch)
    assert locate_params(params) is not None
    assert (params.n_predict, params.n_ctx, params.n_batch, params.n_ubatch) == before


def test_another_layout_is_not_mistaken_for_ours() -> None:
    class Elsewhere:
        n_predict = n_ctx = n_batch = n_ubatch = 0

    assert locate_params(Elsewhere()) is None


def test_a_missing_wheel_is_said_with_the_way_out() -> None:
    program = (
        "import sys; sys.modules['xllamacpp'] = None; from enginery_llamacpp.server import main; "
        "sys.exit(main(['--version']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "pip install 'enginery-llamacpp[bundled]'" in done.stderr


def test_another_layout_is_said_and_the_subset_is_used() -> None:
    program = (
        "import sys; from enginery_llamacpp import server; server.PARSER_SYMBOL = 'gone'; "
        "sys.exit(server.main(['--model', '/no/such.gguf', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "another layout" in done.stderr
    assert "failed to load model" in done.stderr


def test_it_starts_without_heavy_modules() -> None:
    program = (
        "import sys; from enginery_llamacpp import server; server.main(['--bogus']); "
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"pydantic", "click", "pluggy", "prometheus_client", "aiohttp", "asyncio", "enginery"}
    assert not loaded & heavy
