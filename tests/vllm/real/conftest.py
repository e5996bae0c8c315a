"""Tests with real vLLM: each engine takes half a minute to start, so the tests of one file share one.

Where vLLM is not installed they are skipped; nothing here imports it.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import make_hf_model
import pytest
import tiny_tokenizer

from enginery_vllm.program import is_installed
from support.real_vllm import Family

HERE = Path(__file__).parent
MODELS = Path(__file__).parents[3] / ".models"


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items) -> None:
    missing = pytest.mark.skip(reason="there is no vLLM here: `make test-vllm` installs it")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(1800))
            if not is_installed():
                item.add_marker(missing)


@pytest.fixture(scope="module")
def family() -> Family:
    """The processes of this file's engine."""
    return Family()


@pytest.fixture(scope="session")
def tiny_llama() -> Path:
    """The tiny model's directory, made once per version of its makers and of Python."""
    makers = [Path(module.__file__).read_bytes() for module in (make_hf_model, tiny_tokenizer)]
    tag = hashlib.sha256(b"".join([*makers, sys.version[:4].encode()])).hexdigest()[:12]
    return make_hf_model.make(MODELS / tag)
