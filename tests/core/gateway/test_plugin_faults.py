"""What a plugin gets wrong while a request is under way: the client is told, no lease is lost, no head in a stream."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest

from enginery import Command, EngineHooks, EngineManager, PluginRegistry, Settings, hookimpl
from enginery.gateway import Gateway
from support.byte_engine import RawEngine, chunked, exchange, one_reply, post, stream_of
from support.gateways import in_flight
from support.replies import read_replies

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Transform:
    """Passes the first chunk on; then it does as it is told."""

    def __init__(self, fault: Any) -> None:
        self.fault = fault
        self.seen = 0

    def reply(self, body: Any) -> Any:
        return self.fault(body)

    def chunk(self, body: Any) -> Any:
        self.seen += 1
        return [body] if self.seen == 1 else self.fault(body)

    def end(self) -> Any:
        return []


class Plugin:
    """Its request transform and its reply transform are the test's."""

    def __init__(self) -> None:
        self.request: Any = lambda _: None
        self.fault: Any = None

    @hookimpl
    def build_command(self, variant: Any) -> Command:
        return Command(("never-started",))

    @hookimpl
    def transform_request(self, request: Any) -> Any:
        return self.request(request.body)

    @hookimpl
    def transform_response(self) -> Any:
        return None if self.fault is None else Transform(self.fault)


class Registry(PluginRegistry):
    def __init__(self, plugin: Plugin) -> None:
        super().__init__(path=[])
        self._faulty = EngineHooks(plugin, "faulty", "enginery-faulty")

    def hooks(self, engine_type: str) -> EngineHooks:
        return self._faulty if engine_type == "faulty" else super().hooks(engine_type)

    def engine_types(self) -> list[str]:
        return ["faulty"]


@asynccontextmanager
async def gateway_with(plugin: Plugin, engine: RawEngine, *, fast: bool, **how: Any):
    settings = Settings(
        models={"m": {"engine": "faulty", "url": engine.url}},
        defaults={"shutdown_timeout": 0.2, "min_residency": 0},
    )
    async with (
        EngineManager(settings, registry=Registry(plugin)) as manager,
        Gateway(manager, host="127.0.0.1", port=0, fast=fast, **how) as gateway,
    ):
        yield gateway


async def stream(_, writer) -> None:
    writer.write(STREAM_HEAD)
    for event in stream_of("a", "b"):
        writer.write(chunked(event, end=b""))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def whole(_, writer) -> None:
    writer.write(one_reply())


def ask(*, streams: bool = False, close: bool = True) -> bytes:
    return post({"model": "m", "messages": [], "stream": streams}, close=close)


def raises(_: Any) -> Any:
    raise KeyError("boom")


FAULTS = {
    "raises": raises,
    "returns nothing": lambda _: None,
    "returns what is no JSON": lambda body: (
        [{"x": object()}] if "delta" in str(body) else {"x": object()}
    ),
}


@pytest.mark.parametrize("fast", [True, False])
async def test_a_request_that_cannot_be_encoded_is_told_and_its_lease_comes_back(fast):
    plugin = Plugin()
    async with RawEngine() as engine, gateway_with(plugin, engine, fast=fast) as gateway:
        await exchange(gateway, ask())  # leaves a connection for the short way
        plugin.request = lambda body: {**body, "x": object()}
        for _ in range(2):
            told = read_replies(await exchange(gateway, ask(close=False), ask()))
            assert [got.status for got in told] == [502, 502]
            assert all(b"no JSON" in got.body for got in told)
            assert in_flight(gateway) == 0
        plugin.request = lambda _: None
        (got,) = read_replies(await exchange(gateway, ask()))
        assert got.status == 200


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_transform_that_fails_in_a_stream_ends_it_with_an_error_event(fault):
    plugin = Plugin()
    plugin.fault = fault
    async with RawEngine() as engine, gateway_with(plugin, engine, fast=True) as gateway:
        engine.answer = stream
        got = await exchange(gateway, ask(streams=True))
        assert got.count(b"HTTP/1.1 ") == 1, "no second head in the stream"
        (reply,) = read_replies(got)
        assert reply.status == 200
        assert b'"a"' in reply.body
        assert b"event: error" in reply.body
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert in_flight(gateway) == 0


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_one_that_fails_at_a_whole_reply_is_an_error_in_our_shape(fault):
    plugin = Plugin()
    plugin.fault = fault
    async with RawEngine() as engine, gateway_with(plugin, engine, fast=True) as gateway:
        engine.answer = whole
        (got,) = read_replies(await exchange(gateway, ask()))
        assert got.status == 502
        assert b'"code"' in got.body
        assert in_flight(gateway) == 0


async def test_a_defect_of_ours_ends_a_stream_as_an_error_does(monkeypatch, caplog):
    async def broken(*_: Any):
        yield b'data: {"choices": []}\n\n'
        await asyncio.sleep(0)
        raise AssertionError("a secret of ours")

    monkeypatch.setattr("enginery.gateway.handler.changed_stream", broken)
    plugin = Plugin()
    plugin.fault = raises
    async with RawEngine() as engine, gateway_with(plugin, engine, fast=True) as gateway:
        engine.answer = stream
        got = await exchange(gateway, ask(streams=True))
        assert got.count(b"HTTP/1.1 ") == 1
        (reply,) = read_replies(got)
        assert b"event: error" in reply.body
        assert b"secret" not in reply.body
        assert "a secret of ours" in caplog.text
        assert in_flight(gateway) == 0


@pytest.mark.parametrize("fast", [True, False])
async def test_whoever_counts_may_fail_and_the_connection_goes_on(fast, caplog):
    def count(_: Any) -> None:
        raise RuntimeError("cannot count")

    plugin = Plugin()
    async with (
        RawEngine() as engine,
        gateway_with(plugin, engine, fast=fast, on_finished=count) as gateway,
    ):
        for _ in range(2):  # the second time there is a connection for the short way
            got = read_replies(await exchange(gateway, ask(close=False), ask()))
            assert [reply.status for reply in got] == [200, 200]
        assert in_flight(gateway) == 0
    assert "cannot count" in caplog.text
