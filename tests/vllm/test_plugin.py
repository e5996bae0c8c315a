"""`enginery_vllm.plugin` behind the framework's own `EngineHooks`."""

from __future__ import annotations

import json
import logging

import pytest

from enginery import (
    Endpoint,
    EngineHooks,
    EngineReply,
    EngineRequest,
    EngineStartFailed,
    PluginRegistry,
    RunningEngine,
    TokenEstimate,
    UnsupportedOperation,
    Variant,
)
from enginery.enginecore.served import SERVER_NAME
from enginery_vllm import VllmPlugin
from enginery_vllm.options import VllmOptions, options_of
from enginery_vllm.plugin import MOST_WARNINGS
from enginery_vllm.program import is_installed
from enginery_vllm.requests import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES, SCORE

HERE = Endpoint("127.0.0.1", 1, "key")
BODY = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def hooks():
    return EngineHooks(VllmPlugin(), "vllm", "enginery-vllm")


def variant_of(options=None, features=None, name="m") -> Variant:
    return Variant(
        name,
        engine_type="vllm",
        options=options_of(options or {}),
        features=features and frozenset(features),
    )


def warnings(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "enginery.vllm"]


def test_it_is_found_by_its_name() -> None:
    assert PluginRegistry(allow=["enginery-vllm"]).hooks("vllm").variant_options() is VllmOptions


def test_a_server_is_started_and_asked_about_itself_by_the_same_python(hooks) -> None:
    command = hooks.build_command(variant_of({"model": "x", "python": "/opt/python"}), HERE)
    assert command.argv[0] == command.check_argv[0] == "/opt/python"
    assert command.check_argv[1].endswith("about.py")


@pytest.mark.parametrize("installed", [True, False])
def test_in_process_there_is_no_server_and_our_own_python_must_have_vllm(
    hooks, installed, tmp_path, monkeypatch
) -> None:
    if installed:
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('imported')")
        monkeypatch.syspath_prepend(tmp_path)
    elif is_installed():
        pytest.skip("there is a vLLM here")
    variant = variant_of({"model": "x", "in_process": True})
    if installed:
        assert hooks.build_command(variant, HERE) is None
    else:
        with pytest.raises(EngineStartFailed, match="pip install vllm"):
            hooks.build_command(variant, HERE)


@pytest.mark.parametrize(
    ("options", "features", "has", "lacks"),
    [
        ({}, None, {CHAT, COMPLETIONS, RESPONSES, MESSAGES, "/tokenize"}, {EMBEDDINGS, RERANK}),
        ({}, ["completions"], {COMPLETIONS}, {CHAT, RESPONSES, MESSAGES}),
        ({}, ["chat", "completions"], {COMPLETIONS, CHAT}, {EMBEDDINGS}),
        ({"runner": "pooling"}, None, {EMBEDDINGS, RERANK, SCORE}, {CHAT, COMPLETIONS}),
        ({"runner": "pooling"}, ["embeddings"], {EMBEDDINGS}, {RERANK, SCORE}),
        ({"runner": "pooling"}, ["rerank"], {RERANK, SCORE}, {EMBEDDINGS}),
        ({"in_process": True}, None, {CHAT, COMPLETIONS, "/tokenize"}, {RESPONSES, MESSAGES}),
    ],
)
def test_routes_follow_from_options_and_features(hooks, options, features, has, lacks) -> None:
    found = set(hooks.get_supported_endpoints(variant_of(options, features)))
    assert has <= found
    assert not lacks & found
    assert {"/tokenize", "/detokenize", "/v1/models"} <= found


def test_whole_replies_are_asked_for_whole(hooks) -> None:
    # vLLM notices that a client leaves, streaming or not
    assert not hooks.prefers_stream(EngineRequest(CHAT, BODY), variant_of())


def test_a_field_is_warned_of_once_for_each_model(hooks, caplog) -> None:
    request = EngineRequest(CHAT, {**BODY, "mirostat": 1, "functions": []})
    with caplog.at_level(logging.WARNING):
        for name in ("a", "a", "b"):
            assert hooks.transform_request(request, variant_of(name=name)) is None
    said = warnings(caplog)
    assert [line.split()[0] for line in said] == ["a:", "a:", "b:", "b:"]
    assert any("'functions'" in line and "tools" in line for line in said)


def test_clients_cannot_fill_the_log_with_names(hooks, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(MOST_WARNINGS + 20):
            body = {**BODY, f"{number}" * 500: 1}
            hooks.transform_request(EngineRequest(CHAT, body), variant_of())
    said = warnings(caplog)
    assert len(said) == MOST_WARNINGS
    assert max(map(len, said)) < 200


def test_a_translated_request_leaves_the_original_alone(hooks) -> None:
    body = {**BODY, "n_predict": 3}
    made = hooks.transform_request(EngineRequest(CHAT, body), variant_of())
    assert made == {**BODY, "max_tokens": 3}
    assert body == {**BODY, "n_predict": 3}


def test_in_process_requests_are_the_frameworks(hooks) -> None:
    request = EngineRequest(CHAT, {**BODY, "n_predict": 3})
    assert hooks.transform_request(request, variant_of({"in_process": True})) is None


def test_bounds_are_the_frameworks_but_where_they_do_not_hold(hooks) -> None:
    plain = hooks.estimate_tokens(EngineRequest(COMPLETIONS, {"prompt": "hello"}), variant_of())
    assert plain.high is not None
    assert plain.high >= 5
    odd = hooks.estimate_tokens(EngineRequest(COMPLETIONS, {"prompt": "½"}), variant_of())
    assert odd == TokenEstimate(0, None)


def test_nothing_is_claimed_about_memory(hooks) -> None:
    assert hooks.estimate_memory(variant_of({"gpu_memory_utilization": 0.5})) is None


def engine_of(variant, replies):
    asked = []

    async def transport(method, path, body, timeout) -> EngineReply:
        asked.append(path.partition("?")[0])
        said, headers = replies[asked[-1]]
        return EngineReply(200, headers, json.dumps(said).encode())

    return RunningEngine(variant, HERE, 1, transport), asked


async def test_it_sleeps_where_it_has_levels_only(hooks) -> None:
    engine, asked = engine_of(
        variant_of({"sleep": "pause"}), {"/sleep": ({}, {}), "/wake_up": ({}, {})}
    )
    await hooks.sleep(engine, 0)
    await hooks.wake_up(engine)
    assert asked == ["/sleep", "/wake_up"]
    with pytest.raises(UnsupportedOperation, match="level 1"):
        await hooks.sleep(engine, 1)
    engine, _ = engine_of(variant_of(), {})
    with pytest.raises(UnsupportedOperation, match="cannot sleep"):
        await hooks.sleep(engine, 1)


async def test_in_process_the_frameworks_server_says_how_it_is_and_how_it_sleeps(hooks) -> None:
    variant = variant_of({"in_process": True})
    core = {"server": SERVER_NAME}
    said = {"is_sleeping": True, "sleep_levels": [0]}
    engine, asked = engine_of(variant, {"/health": (said, core), "/sleep": ({}, core)})
    assert hooks.sleep_levels(variant) == ()
    assert (await hooks.check_health(engine)).state == "asleep"
    assert list(hooks.sleep_levels(variant)) == [0]
    await hooks.sleep(engine, 0)
    assert asked == ["/health", "/sleep"]


async def test_tokens_are_counted_by_the_engine(hooks) -> None:
    engine, _ = engine_of(variant_of(), {"/tokenize": ({"count": 7}, {})})
    assert await hooks.count_tokens(EngineRequest(COMPLETIONS, {"prompt": "x"}), engine) == 7
