"""A plugin found again in the engine's own process, under the lists of the one that started it."""

from __future__ import annotations

import pytest

from enginery import ConfigError, PluginError, UnsupportedOperation
from enginery.plugins import create_backend


def test_the_plugins_backend_gets_the_variant_with_typed_options() -> None:
    backend = create_backend(
        engine_type="mock",
        variant={"model": "m", "parallel": 3, "context_length": 512, "options": {"seed": 7}},
    )
    assert backend.capabilities.max_num_seqs == 3
    assert backend.capabilities.max_model_len == 512


@pytest.mark.parametrize(
    ("lists", "reason"),
    [({"deny": ["Enginery.Mock"]}, "deny list"), ({"allow": ["other"]}, "not on the allow list")],
)
def test_a_plugin_that_may_not_be_loaded_is_not_loaded_there_either(lists, reason) -> None:
    with pytest.raises(PluginError, match=reason):
        create_backend(engine_type="mock", variant={"model": "m"}, **lists)


def test_options_that_are_not_the_plugins_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"m/default: .*\n?speed"):
        create_backend(engine_type="mock", variant={"model": "m", "options": {"speed": 1}})


def test_an_engine_without_a_backend_says_so() -> None:
    with pytest.raises(UnsupportedOperation, match="'openai' has no backend"):
        create_backend(engine_type="openai", variant={"model": "m"})
