"""`enginery_llamacpp.plugin`: the hooks as the framework calls them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from enginery import (
    Command,
    Endpoint,
    EngineRequest,
    InvalidRequest,
    PluginRegistry,
    TokenEstimate,
    Variant,
)
from enginery_llamacpp import LlamaCppPlugin
from enginery_llamacpp.validation import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES

USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def hooks():
    return PluginRegistry(allow=["enginery-llamacpp"]).hooks("llama.cpp")


def test_the_framework_finds_and_accepts_it(hooks) -> None:
    assert isinstance(hooks.plugin, LlamaCppPlugin)
    variant = Variant(model="m", options={"model": "x.gguf"}, binary="/opt/llama-server")
    command = hooks.build_command(variant, Endpoint("127.0.0.1", 1))
    assert isinstance(command, Command)
    assert command.argv[0] == "/opt/llama-server"
    bounds = hooks.estimate_tokens(EngineRequest(CHAT, {"messages": [USER]}), variant)
    assert isinstance(bounds, TokenEstimate)
    assert hooks.variant_options().__name__ == "LlamaCppOptions"
    assert hooks.parse_error(500, b"") is None


def test_what_the_plugin_says_of_a_variant() -> None:
    plugin = LlamaCppPlugin()

    def routes(features=None, **options):
        variant = Variant(model="m", options=options, features=features)
        return set(plugin.get_supported_endpoints(variant))

    assert CHAT in routes()
    assert CHAT not in routes(embedding=True)
    assert EMBEDDINGS in routes(embedding=True)
    assert "/v1/rerank" in routes(reranking=True)
    assert {CHAT, EMBEDDINGS} <= routes(frozenset({"chat", "embeddings"}), embedding=True)
    assert {CHAT, COMPLETIONS} <= routes(frozenset({"chat", "tools"}))
    assert routes(frozenset({"completions"})) & {CHAT, COMPLETIONS, MESSAGES} == {COMPLETIONS}


def test_an_ignored_field_is_removed_and_logged_once(caplog) -> None:
    plugin = LlamaCppPlugin()
    request = EngineRequest(CHAT, {"messages": [USER], "user": "u", "best_of": 2})
    with caplog.at_level(logging.WARNING, logger="enginery.llamacpp"):
        for _ in range(3):
            body = plugin.transform_request(request, Variant(model="m"))
            assert body == {"messages": [USER]}
    assert len(caplog.records) == 2
    assert {"user", "best_of"} == {record.args[0] for record in caplog.records}


def test_a_bad_request_is_refused_and_a_plain_one_left_alone() -> None:
    plugin = LlamaCppPlugin()
    assert plugin.transform_request(EngineRequest(CHAT, {"messages": [USER]}), Variant("m")) is None
    with pytest.raises(InvalidRequest):
        plugin.transform_request(EngineRequest(CHAT, {"messages": []}), Variant("m"))


def test_a_gguf_file_is_ours_and_another_is_not() -> None:
    plugin = LlamaCppPlugin()
    found = plugin.variant_from_path("~/models/x.GGUF")
    assert found == {"options": {"model": str(Path.home() / "models" / "x.GGUF")}}
    relative = plugin.variant_from_path("x.gguf")
    assert relative is not None
    assert Path(relative["options"]["model"]).is_absolute()
    assert plugin.variant_from_path("x.safetensors") is None
