"""Other people's plugins, really installed: the good one works, the bad ones harm nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LIST = """
import json, sys
from enginery import Endpoint, PluginError, PluginRegistry, Variant
from enginery.plugins import PluginState

registry = PluginRegistry()
asked = {}
for row in registry.rows():
    try:
        registry.hooks(row.engine_type)
        asked[row.engine_type] = "usable"
    except PluginError as error:
        asked[row.engine_type] = error.message
rows = {f"{r.engine_type} of {r.distribution}": [r.state, r.reason, r.version] for r in registry.rows()}
argv = registry.hooks("tiny").build_command(Variant("m"), Endpoint("127.0.0.1", 7)).argv
print(json.dumps({"rows": rows, "asked": asked, "argv": argv, "types": registry.engine_types()}))
"""

BROKEN = {
    "no-import": "ModuleNotFoundError: No module named 'a_library_that_is_not_there'",
    "exits": "SystemExit: cannot live here",
    "interrupted-syntax": "SyntaxError: ",
    "misspelled": "chek_health is marked with @hookimpl but is no hook; did you mean check_health?",
    "unmarked": "build_command is named like a hook but not marked: put @hookimpl above it",
    "keyword-only": "build_command: parameter 'variant' is keyword-only; declare plain parameters",
    "defaulted": "build_command: parameter 'variant' has a default, and would never be passed",
    "unknown-parameter": "build_command: parameter 'model' is not one of the hook's",
    "constructor": "OSError: no GPU",
    "neither": "implements neither of build_command and create_backend: it needs one",
    "missing": "AttributeError: ",
}
INCOMPATIBLE = {
    "other-api": "written for plugin API 2.0, this enginery has 1.",
    "no-version": "API_VERSION must be two integers, got 'one'",
}


@pytest.fixture(scope="module")
def listed(in_child: Callable[[str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = in_child(LIST)
    return found


def test_an_engine_in_ten_lines_of_python_runs(listed) -> None:
    assert listed["rows"]["tiny of tiny-engine"] == ["ready", "", "1.2"]
    assert listed["argv"] == ["tiny-server", "--port", "7"]


@pytest.mark.parametrize(("engine_type", "reason"), BROKEN.items())
def test_a_broken_plugin_is_listed_with_its_reason(engine_type, reason, listed) -> None:
    state, said, version = listed["rows"][f"{engine_type} of all-defects"]
    assert (state, version) == ("broken", "1.2")
    assert said.startswith(reason)
    assert (
        listed["asked"][engine_type]
        == f"engine '{engine_type}' of all-defects 1.2 is broken: {said}"
    )
    assert engine_type not in listed["types"]


@pytest.mark.parametrize(("engine_type", "reason"), INCOMPATIBLE.items())
def test_a_plugin_for_another_contract_is_listed_as_incompatible(
    engine_type, reason, listed
) -> None:
    state, said, _ = listed["rows"][f"{engine_type} of all-defects"]
    assert state == "incompatible"
    assert said.startswith(reason)
    assert engine_type not in listed["types"]


def test_an_engine_type_has_one_owner(listed) -> None:
    assert listed["rows"]["tiny of zz-late"][:2] == [
        "duplicate",
        "engine 'tiny' is taken by tiny-engine; deny one of the two",
    ]
    assert listed["rows"]["mock of zz-late"][:2] == [
        "duplicate",
        "engine 'mock' is reserved for enginery-mock",
    ]
    assert listed["rows"]["late of zz-late"][0] == "ready"


@pytest.mark.parametrize("engine_type", ["openai", "mock", "llama.cpp", "tiny", "late"])
def test_nobody_is_harmed_by_the_broken_ones(engine_type, listed) -> None:
    assert listed["asked"][engine_type] == "usable"
    assert engine_type in listed["types"]
