"""`enginery_llamacpp.options`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from enginery_llamacpp.options import LlamaCppOptions, options_of


def test_no_option_is_needed_to_attach() -> None:
    assert not options_of({}).names_model


def test_a_model_to_download_counts_as_a_model() -> None:
    assert options_of({"extra_args": ["-hf", "someone/model"]}).names_model


@pytest.mark.parametrize(
    "options",
    [
        {"in_process": True, "embedding": True},
        {"modle": "x.gguf"},
        {"model": ""},
        {"gpu_layers": -1},
        {"gpu_layers": "many"},
        {"threads": 0},
        {"extra_args": "-fa on"},
        {"embedding": True, "reranking": True},
    ],
)
def test_a_wrong_option_is_an_error(options) -> None:
    with pytest.raises(ValidationError):
        options_of(options)


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("-c", "context_length"),
        ("--parallel", "parallel"),
        ("--port", "framework"),
        ("-m", "model"),
    ],
)
def test_a_flag_that_belongs_elsewhere_is_refused_with_the_place(flag, instead) -> None:
    with pytest.raises(ValidationError, match=instead):
        options_of({"model": "x.gguf", "extra_args": [flag, "1"]})


def test_the_home_directory_is_filled_in() -> None:
    assert options_of({"model": "~/x.gguf"}).model == str(Path.home() / "x.gguf")


def test_options_that_are_equal_make_variants_equal() -> None:
    first, second = (options_of({"model": "x", "extra_args": ["-fa", "on"]}) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_typed_options_pass_and_other_types_do_not() -> None:
    typed = LlamaCppOptions(model="x.gguf")
    assert options_of(typed) is typed
    with pytest.raises(TypeError, match="list"):
        options_of([])


def test_every_option_is_described() -> None:
    assert all(field.description for field in LlamaCppOptions.model_fields.values())
