"""What is wrong with a plugin, in words; the plugins here are plain objects."""

from __future__ import annotations

import asyncio
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from enginery import API_VERSION, PluginError, hookimpl
from enginery.hookspecs import EngineSpec
from enginery.plugins.checks import HOOK_NAMES, IncompatibleAPI, check_api_version, check_plugin


def plugin_with(**functions: Any) -> object:
    """A plugin of these functions; `build_command` is there unless something else is required."""
    return SimpleNamespace(**{"build_command": hookimpl(lambda variant: None), **functions})


def test_the_hooks_are_all_public_functions_of_the_spec() -> None:
    assert {name for name in vars(EngineSpec) if not name.startswith("_")} == set(HOOK_NAMES)
    assert HOOK_NAMES[0] == "build_command"


def test_every_hook_is_documented() -> None:
    assert all(getattr(EngineSpec, name).__doc__ for name in HOOK_NAMES)


def test_a_good_plugin_has_its_hooks_listed_in_the_contracts_order() -> None:
    class Good:
        @hookimpl
        def check_health(self, engine):
            pass

        @hookimpl
        async def count_tokens(self, engine, request):
            pass

        @hookimpl
        def create_backend(self):
            pass

        def helper(self, *anything, else_=None):
            pass

        @property
        def never_run(self):
            raise AssertionError("a property was run")

    assert check_plugin(Good()) == ("create_backend", "check_health", "count_tokens")


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ({"chek_health": hookimpl(lambda engine: 0)}, "chek_health .* did you mean check_health"),
        ({"xyzzy": hookimpl(lambda: 0)}, "xyzzy .* is no hook; hooks: build_command, "),
        ({"check_health": lambda engine: 0}, "check_health .* not marked: put @hookimpl"),
        ({"parse_error": hookimpl(lambda *, status: 0)}, "'status' is keyword-only"),
        ({"parse_error": hookimpl(lambda status=200: 0)}, "'status' has a default"),
        ({"parse_error": hookimpl(lambda *args: 0)}, "'args' takes any number"),
        ({"parse_error": hookimpl(lambda **kwargs: 0)}, "'kwargs' takes any number"),
        (
            {"parse_error": hookimpl(lambda code: 0)},
            r"'code' is not one .* parse_error\(status, body\)",
        ),
    ],
)
def test_a_defect_is_named_with_the_way_out(functions, reason) -> None:
    with pytest.raises(PluginError, match=reason):
        check_plugin(plugin_with(**functions))


def test_one_of_two_hooks_is_required_but_for_the_frameworks_own() -> None:
    class Nothing:
        @hookimpl
        def check_health(self, engine):
            pass

    with pytest.raises(PluginError, match="neither of build_command and create_backend"):
        check_plugin(Nothing())
    assert check_plugin(Nothing(), command_required=False) == ("check_health",)


def test_what_a_module_imports_is_not_taken_for_a_hook() -> None:
    """``from time import sleep`` at the top of a plugin's one file is no mistake."""
    module = ModuleType("my_engine")
    code = (
        "from enginery import hookimpl\n"
        "@hookimpl\ndef build_command(variant): pass\n"
        "from time import sleep\n"
    )
    exec(code, vars(module))
    assert module.sleep is time.sleep
    assert check_plugin(module) == ("build_command",)
    module.sleep = asyncio.sleep
    assert check_plugin(module) == ("build_command",)
    exec("def check_health(engine): pass", vars(module))
    with pytest.raises(PluginError, match=r"check_health .* not marked"):
        check_plugin(module)


@pytest.mark.parametrize("version", [API_VERSION, (1, 0), [1, 0]])
def test_our_own_version_and_older_minors_are_accepted(version) -> None:
    assert check_api_version(SimpleNamespace(API_VERSION=version), None) == tuple(version)


def test_a_plugin_that_does_not_say_counts_as_the_first_version() -> None:
    assert check_api_version(object(), None) == (1, 0)


def test_a_class_may_leave_its_version_to_its_module() -> None:
    with pytest.raises(IncompatibleAPI, match=r"API 2\.0"):
        check_api_version(object(), SimpleNamespace(API_VERSION=(2, 0)))


@pytest.mark.parametrize("version", [(2, 0), (0, 9), (1, API_VERSION[1] + 1)])
def test_other_versions_are_refused(version) -> None:
    with pytest.raises(
        IncompatibleAPI, match=rf"API {version[0]}\.{version[1]}, this enginery has"
    ):
        check_api_version(SimpleNamespace(API_VERSION=version), None)


@pytest.mark.parametrize("version", ["1.0", 1, (1,), (1, 0, 0), ("one", 0)])
def test_a_version_is_two_integers(version) -> None:
    with pytest.raises(IncompatibleAPI, match="two integers"):
        check_api_version(SimpleNamespace(API_VERSION=version), None)
