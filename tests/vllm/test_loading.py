"""What stands in the way of vLLM in this process, told so that one knows what to do."""

from __future__ import annotations

import os

import pydantic
import pytest

from enginery import EngineStartFailed, Variant
from enginery.enginecore import SyncMPClient
from enginery.enginecore.served import Served
from enginery_vllm.loading import _environment, _short, load_engine
from enginery_vllm.program import is_installed

needs_no_vllm = pytest.mark.skipif(is_installed(), reason="says what is said without vLLM")


def variant(**options) -> Variant:
    return Variant("m", engine_type="vllm", options={"in_process": True, **options})


@needs_no_vllm
def test_a_core_without_vllm_says_where_it_looked_and_what_to_install() -> None:
    """As the core server starts it, in a child that finds the plugin by itself."""
    config = Served.of(variant(model="/models/m")).config()
    with pytest.raises(EngineStartFailed, match=r"vLLM is not installed in /.*: pip install vllm"):
        SyncMPClient(config)


def test_a_model_is_needed() -> None:
    with pytest.raises(EngineStartFailed, match=r"m/default: options\.model is missing") as caught:
        load_engine(variant())
    assert caught.value.param == "options.model"


def test_what_vllm_must_find_is_there_while_it_loads_and_not_after(monkeypatch) -> None:
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    with _environment():
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
        assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"  # the user's word counts
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"
    assert "VLLM_NO_USAGE_STATS" not in os.environ


class Model(pydantic.BaseModel):
    dtype: int

    @pydantic.field_validator("dtype")
    @classmethod
    def _never(cls, value: int) -> int:
        raise ValueError("Sleep mode is not supported")


def test_errors_are_told_in_few_words() -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        Model(dtype=1)
    assert _short(caught.value) == "Sleep mode is not supported"
    assert _short(OSError("a\nb\nc\nd\ne\nf")) == "OSError: a\nb\nc\nd\ne"
    assert _short(KeyError()) == "KeyError"
