"""Streams of an engine that starts with the first of them: who waits, who is told, and who ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from enginery import EngineClosedError, EngineStartFailed, InvalidRequest
from enginery.enginecore import ClientConfig, EngineCoreClient, InprocClient
from enginery.streaming import StreamingEngine
from enginery_vllm.lazy_source import LazySource

PATIENCE = 30.0


class Door:
    """A factory whose engine is ready when the door is opened."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.opened = threading.Event()
        self.calls = 0
        self.clients: list[EngineCoreClient] = []
        self.made = threading.Event()
        self._error = error

    def __call__(self) -> EngineCoreClient:
        self.calls += 1
        assert self.opened.wait(PATIENCE)
        if self._error is not None:
            raise self._error
        client = InprocClient(ClientConfig(seed=7))
        self.clients.append(client)
        self.made.set()
        return client


@pytest.fixture
def engines():
    made = []

    def make(factory: Callable[[], EngineCoreClient], *, could: bool = True):
        source = LazySource(factory, lambda: could)
        engine = StreamingEngine(source)
        made.append(engine)
        return source, engine

    yield make
    for engine in made:
        engine.shutdown()


def is_shut(client: EngineCoreClient) -> bool:
    try:
        client.check_health()
    except EngineClosedError:
        return True
    return False


def test_nothing_starts_before_the_first_request(engines) -> None:
    door = Door()
    source, engine = engines(door)
    assert engine.is_available
    assert not source.is_initialized
    assert door.calls == 0


def test_what_cannot_start_is_not_available(engines) -> None:
    assert not engines(Door(), could=False)[1].is_available


def test_requests_that_came_while_it_loaded_are_all_answered(engines) -> None:
    door = Door()
    source, engine = engines(door)
    streams = [engine.generate_stream("Hi", max_tokens=4, ignore_eos=True) for _ in range(5)]
    assert engine.is_available
    assert not source.is_initialized
    door.opened.set()
    assert all(stream.collect() for stream in streams)
    assert [stream.total_tokens for stream in streams] == [4] * 5
    assert door.calls == 1
    assert source.is_initialized
    assert engine.generate_stream("Hi", max_tokens=3, ignore_eos=True).collect()


def test_a_wrong_parameter_is_refused_before_anything_starts(engines) -> None:
    door = Door()
    _, engine = engines(door)
    with pytest.raises(InvalidRequest, match="mirostat"):
        engine.generate_stream("Hi", mirostat=2)
    assert door.calls == 0
    assert engine.get_stats()["requests"] == 0


def test_code_that_ends_the_program_while_it_loads_is_a_failure_too(engines) -> None:
    door = Door(SystemExit(3))
    _, engine = engines(door)
    stream = engine.generate_stream("Hi")
    door.opened.set()
    with pytest.raises(EngineStartFailed, match="SystemExit"):
        stream.collect()
    assert not engine.is_available


def test_a_start_that_failed_is_told_to_all_and_stays_failed(engines) -> None:
    door = Door(EngineStartFailed("the weights are for another model"))
    source, engine = engines(door)
    streams = [engine.generate_stream("Hi") for _ in range(3)]
    door.opened.set()
    errors = []
    for stream in streams:
        with pytest.raises(EngineStartFailed, match="another model") as caught:
            stream.collect()
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 3  # each has a traceback of its own
    assert not engine.is_available
    assert not source.is_initialized
    with pytest.raises(EngineStartFailed, match="another model"):
        engine.generate_stream("Hi")
    assert door.calls == 1


def test_preload_starts_it_once_without_a_request(engines) -> None:
    door = Door()
    source, engine = engines(door)
    source.preload()
    source.preload()
    door.opened.set()
    assert engine.generate_stream("Hi", max_tokens=2, ignore_eos=True).collect()
    assert door.calls == 1


def test_shutdown_ends_the_engine_it_started(engines) -> None:
    door = Door()
    door.opened.set()
    source, engine = engines(door)
    engine.generate_stream("Hi", max_tokens=2, ignore_eos=True).collect()
    engine.shutdown()
    engine.shutdown()
    assert is_shut(door.clients[0])
    assert not engine.is_available
    assert not source.is_initialized
    with pytest.raises(EngineClosedError):
        source.preload()


def test_shutdown_while_it_loads_ends_the_waiting_streams_and_then_the_engine(engines) -> None:
    door = Door()
    _, engine = engines(door)
    stream = engine.generate_stream("Hi")
    engine.shutdown()
    assert stream.collect() == ""
    assert stream.finish_reason == "abort"
    loaders = [t for t in threading.enumerate() if t.name == "enginery-stream-load"]
    door.opened.set()
    assert door.made.wait(PATIENCE)
    for thread in loaders:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert is_shut(door.clients[0])


def test_a_stream_that_nobody_waits_for_never_reaches_the_engine(engines) -> None:
    door = Door()
    _, engine = engines(door)
    dropped = engine.generate_stream("Hi", max_tokens=500, ignore_eos=True)
    dropped.close()
    kept = engine.generate_stream("Hi", max_tokens=2, ignore_eos=True)
    door.opened.set()
    assert kept.collect()
    assert sum(v for k, v in door.clients[0].get_stats().items() if k.startswith("finished")) == 1
