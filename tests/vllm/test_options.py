"""`enginery_vllm.options`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from enginery_vllm.options import VllmOptions, options_of


def test_no_option_is_needed_to_attach() -> None:
    assert options_of({}) == VllmOptions()


def test_typed_options_stay_as_they_are_and_other_things_are_refused() -> None:
    options = VllmOptions(model="x")
    assert options_of(options) is options
    with pytest.raises(TypeError, match="must be a mapping"):
        options_of("model=x")


@pytest.mark.parametrize(
    "options",
    [
        {"modle": "x"},
        {"model": ""},
        {"dtype": "int3"},
        {"runner": "draft"},
        {"tensor_parallel_size": 0},
        {"gpu_memory_utilization": 1.5},
        {"gpu_memory_utilization": 0},
        {"kv_cache_gib": 0},
        {"max_num_queued_reqs": 0},
        {"seed": -1},
        {"sleep": "deep"},
        {"extra_args": "--a b"},
        {"enable_auto_tool_choice": True},
        {"in_process": True, "runner": "pooling"},
        {"in_process": True, "sleep": "pause"},
        {"in_process": True, "python": "/opt/python"},
        {"in_process": True, "tool_call_parser": "hermes"},
    ],
)
def test_a_wrong_option_is_an_error(options) -> None:
    with pytest.raises(ValidationError):
        options_of(options)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("--model", "options.model"),
        ("--max-model-len", "context_length"),
        ("--max_model_len", "context_length"),
        ("--max-model-len=8", "context_length"),
        ("--max-num-seqs", "parallel"),
        ("--served-model-name", "passed on"),
        ("--api-key", "key of its own"),
        ("--uds", "the framework chooses"),
        ("--port=1", "the framework chooses"),
        ("--enable-sleep-mode", "options.sleep"),
        ("--root-path", "gateway"),
    ],
)
def test_a_flag_that_is_chosen_elsewhere_says_where(word, instead) -> None:
    with pytest.raises(ValidationError, match=instead):
        options_of({"extra_args": [word]})


def test_other_flags_are_the_users() -> None:
    words = ("--block-size", "32", "--middleware", "mine.Middleware")
    assert options_of({"extra_args": words}).extra_args == words


def test_a_tilde_is_the_home_directory_and_a_name_on_a_hub_a_name(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = options_of({"model": "~/m", "python": "~/v/bin/python", "tokenizer": "org/name"})
    assert options.model == str(Path(tmp_path) / "m")
    assert options.python == str(Path(tmp_path) / "v/bin/python")
    assert options.tokenizer == "org/name"
