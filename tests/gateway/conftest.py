"""The gateway over real engines: mocks as child processes, llama.cpp with its tiny models."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_models.py"
TOKENIZER = ROOT / "scripts" / "tiny_tokenizer.py"


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    """A directory with the tiny models, made once per version of the script and of Python."""
    spec = importlib.util.spec_from_file_location("make_models_for_gateway", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    version = f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    tag = hashlib.sha256(SCRIPT.read_bytes() + TOKENIZER.read_bytes() + version).hexdigest()[:12]
    directory = ROOT / ".models" / tag
    script.make(directory)
    return directory
