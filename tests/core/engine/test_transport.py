"""`HttpTransport`: what its errors say, and what they must not."""

from __future__ import annotations

import asyncio

import pytest

from enginery.engine import transport as under_test
from enginery.engine.transport import HttpTransport
from enginery.errors import EngineTimeout, EngineUnreachable
from enginery.values import Endpoint

PATH = "/sleep?level=1&proof=secret"


class NoHttp(asyncio.Protocol):
    """An engine that answers what is no HTTP."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        self.transport.write(b"what\r\n\r\n")

    def connection_lost(self, _) -> None:
        self.over.set()


class LateSession:
    """One whose requests are never answered."""

    closed = False

    def request(self, *_, **__):
        raise TimeoutError

    async def close(self) -> None: ...


async def test_what_is_no_http_is_told_without_the_query_where_secrets_may_be() -> None:
    engine, transport = NoHttp(), HttpTransport()
    server = await asyncio.get_running_loop().create_server(lambda: engine, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        with pytest.raises(EngineUnreachable) as caught:
            await transport.fetch(endpoint, "POST", PATH, timeout=30.0)
        await asyncio.wait_for(engine.over.wait(), 30)
    finally:
        await transport.close()
        server.close()
    assert endpoint.base_url in caught.value.message
    assert "secret" not in caught.value.message


async def test_silence_is_told_without_the_query_too(monkeypatch) -> None:
    monkeypatch.setattr(under_test, "open_session", lambda _: LateSession())
    with pytest.raises(EngineTimeout, match="1/sleep in time") as caught:
        await HttpTransport().fetch(Endpoint("127.0.0.1", 1), "POST", PATH)
    assert "secret" not in caught.value.message
