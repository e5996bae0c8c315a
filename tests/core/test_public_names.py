"""Public means: in a sorted ``__all__``, documented, and importable; and ``import enginery`` is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import enginery

PUBLIC = [
    "enginery",
    "enginery.enginecore",
    "enginery.plugins",
    "enginery.streaming",
    "enginery.values",
    "enginery.errors",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_sorted_and_there(module) -> None:
    names = import_module(module).__all__
    assert list(names) == sorted(set(names))
    assert [name for name in names if not hasattr(import_module(module), name)] == []


@pytest.mark.parametrize("name", enginery.__all__)
def test_every_public_name_is_documented(name) -> None:
    value = getattr(enginery, name)
    assert value.__doc__
    if isinstance(value, type):
        # a dataclass without a docstring shows its signature instead
        assert not value.__doc__.startswith(f"{value.__name__}(")


def test_names_that_load_late_are_listed_and_nothing_else_is_there() -> None:
    assert set(enginery._LAZY) <= set(enginery.__all__) <= set(dir(enginery))
    with pytest.raises(AttributeError, match="no attribute 'Enginne'"):
        _ = enginery.Enginne


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_no_library() -> None:
    before = loaded_by("pass")
    after = loaded_by("import enginery; enginery.Variant('m'); enginery.QueueFull('x')")
    assert after - before - set(sys.stdlib_module_names) == {"enginery"}


def test_a_plugin_of_one_hook_loads_neither_pydantic_nor_aiohttp() -> None:
    loaded = loaded_by("from enginery import Command, hookimpl")
    assert "pluggy" in loaded
    assert not loaded & {"pydantic", "aiohttp", "yaml", "click", "asyncio"}
