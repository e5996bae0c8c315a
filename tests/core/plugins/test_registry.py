"""Discovery: who is looked at, who is imported, and when."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from enginery import PluginError, PluginRegistry
from enginery.plugins import PluginState

USE = """
import json, sys
from enginery import PluginError, PluginRegistry
said = []
registry = PluginRegistry({arguments})
for engine_type in {use}:
    try:
        registry.hooks(engine_type)
        said.append("")
    except PluginError as error:
        said.append(error.message)
states = {{f"{{r.engine_type}} of {{r.distribution}}": [r.state, r.reason] for r in registry.rows()}} if {rows} else {{}}
ours = ("tiny_engine", "zz_late", "defect_", "enginery_")
loaded = sorted(name for name in sys.modules if name.startswith(ours) and "." not in name)
print(json.dumps([said, loaded, states, registry.engine_types()]))
"""


def use(*engine_types: str, arguments: str = "", rows: bool = False) -> str:
    return USE.format(arguments=arguments, use=list(engine_types), rows=rows)


# -- imports -----------------------------------------------------------------------------------


def test_a_plugin_that_is_not_used_is_never_imported(in_child) -> None:
    said, loaded, _, types = in_child(use("tiny"))
    assert said == [""]
    assert loaded == ["tiny_engine"]
    assert {"tiny", "late", "mock", "openai", "exits"} <= set(types)  # found, not imported


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("deny=['tiny_ENGINE']", "on the deny list (plugins.deny)"),
        ("allow=['enginery-mock', 'zz.late']", "not on the allow list (plugins.allow)"),
        ("allow=['Tiny.Engine'], deny=['tiny-engine']", "on the deny list (plugins.deny)"),
    ],
)
def test_a_blocked_distribution_is_not_imported_even_when_all_are_listed(
    arguments, reason, in_child
) -> None:
    _, loaded, rows, _ = in_child(use(arguments=arguments, rows=True))
    assert "tiny_engine" not in loaded
    assert rows["tiny of tiny-engine"] == ["blocked", reason]
    assert rows["openai of enginery"] == ["ready", ""]  # the framework's own is always allowed


def test_asking_for_a_blocked_engine_says_which_list_it_is_on(in_child) -> None:
    said, loaded, _, types = in_child(use("exits", arguments="deny=['All.Defects']"))
    assert said == ["engine 'exits' of all-defects 1.2 is blocked: on the deny list (plugins.deny)"]
    assert loaded == []
    assert "exits" not in types


def test_denying_the_owner_gives_the_engine_type_to_the_next(in_child) -> None:
    said, loaded, _, types = in_child(use("tiny", arguments="deny=['tiny-engine']"))
    assert said == [""]
    assert loaded == ["zz_late"]
    assert "tiny" in types


def test_an_allow_list_holds_for_everybody_but_the_framework(in_child) -> None:
    _, loaded, rows, types = in_child(use(arguments="allow=['enginery-mock']", rows=True))
    assert loaded == ["enginery_mock"]
    assert types == ["mock", "openai"]
    assert rows["llama.cpp of enginery-llamacpp"][0] == "blocked"
    assert rows["exits of all-defects"][0] == "blocked"


# -- looking -----------------------------------------------------------------------------------


def test_a_path_says_where_to_look(installed) -> None:
    registry = PluginRegistry(path=[str(installed)])
    assert "openai" not in registry.engine_types()
    assert {"tiny", "late"} <= set(registry.engine_types())
    assert PluginRegistry(path=[]).engine_types() == []


def test_an_earlier_place_hides_the_same_distribution_in_a_later_one(installed, tmp_path) -> None:
    shutil.copytree(installed / "tiny_engine-1.2.dist-info", tmp_path / "tiny_engine-9.dist-info")
    metadata = tmp_path / "tiny_engine-9.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.2", "Version: 9"))
    registry = PluginRegistry(deny=["all-defects"], path=[str(tmp_path), str(installed)])
    tiny = [row for row in registry._found if row.row.distribution == "tiny-engine"]
    assert [found.row.version for found in tiny] == ["9"]


def test_a_half_removed_distribution_stops_nobody(installed, tmp_path) -> None:
    (tmp_path / "ruin-1.0.dist-info").mkdir()
    (tmp_path / "ruin-1.0.dist-info" / "entry_points.txt").write_text("[enginery.engines\nx = y")
    registry = PluginRegistry(path=[str(tmp_path), str(installed)])
    assert "tiny" in registry.engine_types()


def test_an_unknown_engine_type_gets_the_nearest_name(installed) -> None:
    registry = PluginRegistry()
    with pytest.raises(PluginError, match=r"no plugin for engine 'opena'; did you mean 'openai'"):
        registry.hooks("opena")
    with pytest.raises(PluginError, match=r"installed: .*openai") as caught:
        registry.hooks("xyzzy")
    assert caught.value.param == "engine"


def test_an_engine_type_that_only_a_pretender_offers_says_for_whom_it_is_reserved(
    installed,
) -> None:
    registry = PluginRegistry(path=[str(installed)])
    with pytest.raises(
        PluginError, match=r"of zz-late 1\.2 is duplicate: .* reserved for enginery-mock"
    ):
        registry.hooks("mock")


# -- loading -----------------------------------------------------------------------------------


def test_hooks_are_made_once() -> None:
    registry = PluginRegistry()
    assert registry.hooks("openai") is registry.hooks("openai")


def test_what_is_broken_is_tried_once_and_told_in_one_line(installed, monkeypatch, caplog) -> None:
    monkeypatch.syspath_prepend(str(installed))
    registry = PluginRegistry(path=[str(installed)])
    caplog.set_level(logging.WARNING, "enginery.plugins")
    for _ in range(2):
        with pytest.raises(PluginError, match="is broken: ModuleNotFoundError"):
            registry.hooks("no-import")
    assert len(caplog.messages) == 1
    row = next(row for row in registry._found if row.row.engine_type == "no-import").row
    assert row.state is PluginState.BROKEN
    assert "\n" not in row.reason


def test_rows_are_sorted_and_say_what_each_plugin_can_do() -> None:
    rows = PluginRegistry(allow=["enginery"]).rows()
    assert rows == sorted(rows, key=lambda row: (row.engine_type, row.distribution))
    openai = next(row for row in rows if row.engine_type == "openai")
    assert openai.state is PluginState.READY
    assert openai.api_version == (1, 0)
    assert openai.hooks == ()


def test_the_smallest_plugin_fits_ten_lines(installed: Path) -> None:
    code = (installed / "tiny_engine.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
