"""The one StreamingVllmEngine of a process, and its configuration, without vLLM."""

from __future__ import annotations

import threading

import pytest

from enginery import ConfigError, EngineClosedError, EngineStartFailed
from enginery.enginecore import ClientConfig, InprocClient
from enginery.enginecore.served import variant_of
from enginery.streaming import StreamingConfig
from enginery_vllm.options import VllmOptions
from enginery_vllm.program import is_installed
from enginery_vllm.streaming import StreamingVllmConfig, StreamingVllmEngine

needs_no_vllm = pytest.mark.skipif(is_installed(), reason="says what is said without vLLM")


class Fake(StreamingVllmEngine):
    """Runs our mock model instead."""

    def _make_client(self) -> InprocClient:
        return InprocClient(ClientConfig(seed=7))


@pytest.fixture(autouse=True)
def ended():
    yield
    if (held := StreamingVllmEngine._instance) is not None:
        held.shutdown()


def test_the_same_configuration_gives_the_same_engine() -> None:
    engine = Fake.get_instance(StreamingVllmConfig("m", options={"dtype": "bfloat16"}))
    same = StreamingVllmConfig("m", options=VllmOptions(dtype="bfloat16"))
    assert Fake.get_instance(same) is engine
    assert Fake.get_instance() is engine


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (StreamingVllmConfig("other"), "model"),
        (StreamingVllmConfig("m", context_length=64), "context_length"),
        (StreamingVllmConfig("m", streaming=StreamingConfig(buffer_size=7)), "streaming"),
        (StreamingVllmConfig("m", options={"enforce_eager": True}), "options"),
    ],
)
def test_another_configuration_is_refused_and_says_what_is_other(other, named) -> None:
    engine = Fake.get_instance(StreamingVllmConfig("m"))
    with pytest.raises(ConfigError, match=rf"other (\w+, )*{named}.*shut it down first"):
        Fake.get_instance(other)
    assert Fake.get_instance() is engine


def test_after_shutdown_there_may_be_another() -> None:
    first = Fake.get_instance(StreamingVllmConfig("m"))
    assert first.generate_stream("Hi", max_tokens=2, ignore_eos=True).collect()
    first.shutdown()
    with pytest.raises(EngineClosedError):
        first.generate_stream("Hi")
    with pytest.raises(ConfigError, match="needs a configuration"):
        Fake.get_instance()
    second = Fake.get_instance(StreamingVllmConfig("other"))
    assert second is not first
    assert second.generate_stream("Hi", max_tokens=2, ignore_eos=True).collect()


async def test_an_awaited_shutdown_leaves_the_place_free_too() -> None:
    engine = Fake.get_instance(StreamingVllmConfig("m"))
    await engine.shutdown_async()
    assert Fake.get_instance(StreamingVllmConfig("m")) is not engine


def test_an_engine_of_ones_own_is_not_the_one_of_the_process() -> None:
    own = Fake(StreamingVllmConfig("m"))
    shared = Fake.get_instance(StreamingVllmConfig("m"))
    assert shared is not own
    own.shutdown()
    assert Fake.get_instance() is shared


def test_many_threads_get_one_engine() -> None:
    found = []
    begin = threading.Barrier(8)

    def ask() -> None:
        begin.wait()
        found.append(Fake.get_instance(StreamingVllmConfig("m")))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_it_is_loaded_by_the_first_request_and_not_before() -> None:
    engine = Fake(StreamingVllmConfig("m"))
    assert engine.is_available == is_installed()
    assert not engine.is_initialized
    seen = []
    text = engine.generate_with_callback(
        "Hi", lambda *call: seen.append(call), max_tokens=3, ignore_eos=True
    )
    assert "".join(call[0] for call in seen) == text
    assert all(isinstance(call[1], int) for call in seen if call[0])
    assert engine.is_initialized
    assert engine.is_available
    engine.shutdown()
    assert not engine.is_available
    assert not engine.is_initialized


@needs_no_vllm
def test_without_vllm_it_is_not_available_and_the_stream_says_what_to_install() -> None:
    engine = StreamingVllmEngine(StreamingVllmConfig("m"))
    assert not engine.is_available
    with pytest.raises(EngineStartFailed, match=r"vLLM is not installed in .*pip install vllm"):
        engine.generate_stream("Hi").collect()
    engine.shutdown()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": ""}, "model"),
        ({"parallel": 0}, "parallel"),
        ({"parallel": None}, "parallel"),
        ({"context_length": 1.5}, "context_length"),
        ({"client": "async_mp"}, "client"),
        ({"options": {"no_such": 1}}, "options"),
        ({"options": {"model": "other"}}, "options"),
        ({"options": {"tool_call_parser": "hermes"}}, "options"),
        ({"options": 5}, "options"),
    ],
)
def test_a_wrong_configuration_names_the_field(given, param) -> None:
    with pytest.raises(ConfigError) as caught:
        StreamingVllmConfig(**{"model": "m", **given})
    assert caught.value.param == param


def test_the_core_is_told_everything() -> None:
    config = StreamingVllmConfig(
        "/models/m", 512, 3, {"dtype": "bfloat16", "kv_cache_gib": 1.0}, start_timeout_s=77.0
    )
    told = config.client_config()
    variant = variant_of(told.options["variant"])
    assert (variant.engine_type, variant.context_length, variant.parallel) == ("vllm", 512, 3)
    assert variant.options == {
        "model": "/models/m",
        "dtype": "bfloat16",
        "kv_cache_gib": 1.0,
        "in_process": True,
    }
    assert told.start_timeout_s == 77.0
    assert told.to_dict()  # it can travel
