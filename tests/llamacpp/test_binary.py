"""`enginery_llamacpp.binary`."""

from __future__ import annotations

import pytest

from enginery import EngineStartFailed
from enginery_llamacpp.binary import BUNDLED_SERVER, find_program, is_bundled


def on_path(name: str) -> str:
    return f"/usr/bin/{name}"


def nothing(name: str) -> None:
    return None


def test_the_variants_binary_wins() -> None:
    assert find_program("/opt/llama-server", which=on_path, bundled=lambda: True) == (
        "/opt/llama-server",
    )


def test_a_server_on_path_is_preferred_to_the_bundled_one() -> None:
    assert find_program(None, which=on_path, bundled=lambda: True) == ("/usr/bin/llama-server",)


def test_the_bundled_one_is_next() -> None:
    assert find_program(None, which=nothing, bundled=lambda: True) == BUNDLED_SERVER


def test_without_any_the_error_names_three_ways_out() -> None:
    with pytest.raises(EngineStartFailed) as failure:
        find_program(None, which=nothing, bundled=lambda: False)
    for way in ("install llama.cpp", "`binary`", "pip install 'enginery-llamacpp[bundled]'"):
        assert way in failure.value.message
    assert failure.value.param == "binary"


def test_the_wheel_is_installed_here() -> None:
    assert is_bundled()
