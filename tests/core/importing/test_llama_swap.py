"""llama-swap's configurations become settings that are valid, and every loss is told where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.importing import Imported, as_yaml, import_llama_swap
from enginery.settings import Settings
from enginery.settings.document import read_document

EVERY_FIELD = Path(__file__).with_name("every_field.yaml")


def imported(text: str) -> Imported:
    layer = read_document(text, "swap.yaml")
    assert not layer.problems
    return import_llama_swap(layer.values)


def model(text: str) -> dict[str, Any]:
    """The only model of a configuration whose model ``m`` has these fields."""
    (found,) = imported(f"models:\n  m:\n    {text}\n").settings["models"].values()
    return found


def remarks(done: Imported) -> dict[str, str]:
    return {".".join(map(str, remark.loc)): remark.text for remark in done.remarks}


@pytest.fixture(scope="module")
def every() -> Imported:
    return imported(EVERY_FIELD.read_text())


def test_what_every_field_becomes(every) -> None:
    got = every.settings
    assert got["server"] == {"api_keys": ["first-key", "${env.SECOND_KEY}"]}
    assert got["defaults"] == {
        "ttl": 300,
        "stop_timeout": 20,
        "load_stall": 2400,
        "load_cap": 2400,
    }
    assert got["models"]["small"] == {
        "engine": "llama.cpp",
        "binary": "/opt/llama/bin/llama-server-b9000",
        "context_length": 2048,
        "parallel": 2,
        "options": {
            "model": "/models/with space.gguf",
            "gpu_layers": 99,
            "threads": 4,
            "extra_args": ["--temp", "0.5"],
        },
        "env": {"CUDA_VISIBLE_DEVICES": "0,1"},
        "upstream_model": "vendor/small",
        "ttl": 60,
        "stop_timeout": 5,
        "first_byte": 45,
        "aliases": ["gpt-4o-mini", "small:high", "coder"],
        "preload": True,
        "priority": 5,
    }


def test_other_programs_keep_their_command_line(every) -> None:
    models = every.settings["models"]
    assert models["hidden-model"] == {
        "engine": "openai",
        "binary": "python3",
        "args": [
            "-m",
            "server",
            "--listen",
            "{port}",
            "--name",
            "hidden model",
            "--json",
            '{"a":1}',
        ],
        "parallel": 3,
    }
    assert models["fixed"]["url"] == "http://127.0.0.1:9100"
    assert "stop_argv" not in models["fixed"]
    assert models["docked"]["stop_argv"] == ["docker", "stop", "docked"]
    assert "{port}:8080" in models["docked"]["args"]
    assert models["docked"]["aliases"] == ["pinned"]
    assert models["vectors"]["options"] == {"embedding": True, "extra_args": ["-hf", "org/model"]}
    # a context that does not divide by the slots has no setting: the line stays as it is
    assert models["odd"]["engine"] == "llama.cpp"
    assert models["odd"]["args"][-4:] == ["-c", "1001", "-np", "2"]


def test_models_of_peers_are_attached_to(every) -> None:
    models = every.settings["models"]
    assert models["other-box/far"]["aliases"] == ["far"]
    assert "aliases" not in models["other-box/shared"], "two peers have it"
    assert models["hosted/vendor/large"] == {
        "engine": "openai",
        "url": "https://api.example.org/api",
        "parallel": 10,
        "api_key": "${env.HOSTED_KEY}",
        "first_byte": 60,
        "upstream_model": "vendor/large",
        "aliases": ["vendor/large"],
    }
    assert not any(name.startswith("nowhere") for name in models)


LOST = {
    "captureBuffer",
    "groups.always.persistent",
    "groups.together",
    "hooks.on_startup.preload.2",
    "includeAliasesInList",
    "inventedKey",
    "logLevel",
    "logRequests",
    "logTimeFormat",
    "logToStdout",
    "metricsMaxInMemory",
    "models.deaf.cmd",
    "models.docked.cmd",
    "models.fixed.cmd",
    "models.fixed.cmdStop",
    "models.small.aliases.1",
    "models.small.capabilities",
    "models.small.cmd",
    "models.small.compat",
    "models.small.concurrencyLimit",
    "models.small.description",
    "models.small.env.1",
    "models.small.env.2",
    "models.small.filters.setParams",
    "models.small.filters.setParamsByID",
    "models.small.filters.stripParams",
    "models.small.metadata",
    "models.small.name",
    "models.small.proxy",
    "models.small.timeouts.connect",
    "models.undocked.cmd",
    "models.vectors.cmd",
    "peers.hosted.filters.setParams",
    "peers.hosted.filters.stripParams",
    "peers.hosted.timeouts.idleConn",
    "peers.nowhere.proxy",
    "performance",
    "profiles",
    "routing.scheduler.settings.fifo.priority.nobody",
    "selectors.coder.strategy",
    "selectors.lost",
    "sendLoadingState",
    "startPort",
    "store",
    "ui",
    "upstream",
}


def test_every_loss_is_told_and_nothing_else(every) -> None:
    told = remarks(every)
    hidden = {path for path in told if path.startswith("models.hidden model")}
    assert hidden == {
        f"models.hidden model{end}" for end in ("", ".cmd", ".checkEndpoint", ".unlisted")
    }
    assert set(told) - hidden == LOST


def test_no_secret_is_told(every) -> None:
    said = " ".join(remark.text for remark in every.remarks)
    assert not any(secret in said for secret in ("first-key", "secret-of-the-engine", "_KEY"))


def test_the_result_is_a_valid_file_of_settings(every) -> None:
    layer = read_document(as_yaml(every.settings), "out.yaml")
    assert not layer.problems
    assert layer.values == every.settings
    assert len(Settings(**layer.values).models) == len(every.settings["models"])


@pytest.mark.parametrize(
    "quoted", ["1e5", "0755", "null", "on", "true", "1.10", "{port}", "a: b", "#", ""]
)
def test_words_that_look_like_something_else_stay_words(quoted) -> None:
    written = as_yaml({"models": {"m": {"options": {"extra_args": [quoted]}}}})
    values = read_document(written, "x").values
    assert values["models"]["m"]["options"]["extra_args"] == [quoted]


def test_a_macro_may_hold_those_before_it_and_keeps_its_type_alone() -> None:
    found = imported(
        "macros: {n: 60, flag: '-c ${size}', size: 512}\n"
        "models:\n  m:\n    ttl: ${n}\n    macros: {size: 1024}\n"
        "    cmd: llama-server -m x.gguf --port ${PORT} ${flag}\n"
    )
    # `size` is defined after `flag`, so it was filled in before `flag` brought it
    assert remarks(found).keys() == {"models.m.cmd"}
    assert found.settings["models"]["m"]["ttl"] == 60


def test_a_quote_without_an_end_is_told() -> None:
    done = imported("models: {m: {cmd: 'server --name \"x'}}")
    assert any("cannot be cut into words" in remark.text for remark in done.remarks)


def test_whole_variables_are_warned_of_as_they_may_be_several_words() -> None:
    done = imported("models: {m: {cmd: 'server --port ${PORT} ${env.FLAGS}'}}")
    assert any("${env.FLAGS} stays one word" in remark.text for remark in done.remarks)
    assert done.settings["models"]["m"]["args"] == ["--port", "{port}", "${env.FLAGS}"]


def test_a_command_with_our_own_placeholders_is_warned_of() -> None:
    done = imported("models: {m: {cmd: 'server --port ${PORT} --template {model}'}}")
    assert any("{model} is filled in here" in remark.text for remark in done.remarks)


def test_a_model_without_a_command_is_attached_to_where_it_says_where() -> None:
    assert model("proxy: http://10.0.0.1:8000/") == {
        "engine": "openai",
        "url": "http://10.0.0.1:8000",
        "parallel": 10,
    }


def test_ttl_zero_means_never_and_minus_one_the_general_one() -> None:
    assert model("{cmd: 's ${PORT}', ttl: 0}")["ttl"] == 0
    assert "ttl" not in model("{cmd: 's ${PORT}', ttl: -1}")


def test_the_matrix_is_told_where_it_decides() -> None:
    done = imported(
        "models: {}\nrouting: {router: {use: matrix, settings: {matrix: {sets: {a: b}}, groups: {g: {swap: false}}}}}"
    )
    assert remarks(done).keys() == {"routing.router.settings.matrix"}
    assert done.settings["models"] == {}


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
)
WORDS = st.sampled_from(
    [
        *(
            "llama-server",
            "-m",
            "x.gguf",
            "-c",
            "4096",
            "-np",
            "2",
            "-ngl",
            "--port",
            "${PORT}",
            "${a}",
        ),
        *(
            "--host",
            "0.0.0.0",
            "docker",
            "run",
            "--api-key",
            "'",
            '"',
            "\\",
            "\n",
            "#",
            "{port}",
            "-1",
            "\0",
        ),
        *(
            "--embedding",
            "--rerank",
            "-t",
            "${MODEL_ID}",
            "${env.X}",
            "http://127.0.0.1:${PORT}",
            "A=b",
        ),
        *("http://h:1", "https://h/v1", "", "é", "a" * 250, "-x/.."),
    ]
)
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


def mapping(*keys: str, **shaped: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys: mostly with what belongs there, sometimes with anything."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(keys, VALUES), **shaped})


NAMES = TEXTS | st.sampled_from(["m", "n", "m-n", "m n"])
MODEL = mapping(
    *(
        "ttl",
        "unloadTimeout",
        "filters",
        "timeouts",
        "metadata",
        "macros",
        "concurrencyLimit",
        "name",
    ),
    *("checkEndpoint", "useModelName", "env", "aliases", "proxy", "cmdStop"),
    cmd=TEXTS | VALUES,
    env=st.lists(TEXTS, max_size=3),
    aliases=st.lists(NAMES, max_size=3),
    filters=mapping("stripParams", setParamsByID=st.dictionaries(NAMES, VALUES, max_size=2)),
    proxy=TEXTS,
    cmdStop=TEXTS,
)
CONFIG = mapping(
    *(
        "healthCheckTimeout",
        "globalTTL",
        "unloadTimeout",
        "routing",
        "matrix",
        "ui",
        "profiles",
        "x",
    ),
    macros=st.dictionaries(NAMES, SCALARS | TEXTS, max_size=3),
    models=st.dictionaries(NAMES, MODEL | VALUES, max_size=3),
    apiKeys=st.lists(TEXTS, max_size=2) | VALUES,
    hooks=mapping(on_startup=mapping(preload=st.lists(NAMES, max_size=2))),
    peers=st.dictionaries(
        NAMES, mapping("apiKey", "models", proxy=TEXTS, models=st.lists(NAMES)), max_size=2
    ),
    selectors=st.dictionaries(
        NAMES, mapping("strategy", targets=st.lists(NAMES, max_size=2)), max_size=2
    ),
    groups=st.dictionaries(NAMES, mapping("swap", "persistent"), max_size=2),
)


@settings(max_examples=100, deadline=None)
@given(CONFIG)
def test_whatever_comes_in_valid_settings_come_out(config) -> None:
    valid_settings_come_out(config)


@pytest.mark.heavy
@settings(max_examples=1000, deadline=None)
@given(CONFIG)
def test_whatever_comes_in_valid_settings_come_out_many_times(config) -> None:
    valid_settings_come_out(config)


def valid_settings_come_out(config) -> None:
    done = import_llama_swap(config)
    layer = read_document(as_yaml(done.settings), "out.yaml")
    assert not layer.problems
    Settings(**layer.values)
    assert all("\n" not in remark.text for remark in done.remarks)
