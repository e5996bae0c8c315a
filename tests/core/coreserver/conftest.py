"""Core servers around the mock executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from enginery.enginecore.served import Served
from enginery.values import Variant
from support.core_servers import CoreServer, mock_variant

Start = Callable[..., CoreServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(seed=3)`: a server around the mock executor, ready; `start(variant=..., ready=False)`."""
    servers = []

    def begin(
        variant: Variant | None = None,
        *,
        ready: bool = True,
        unix_path: str | None = None,
        **options: Any,
    ) -> CoreServer:
        server = CoreServer(Served.of(variant or mock_variant(**options)), unix_path)
        servers.append(server)
        return server.ready() if ready else server

    yield begin
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[CoreServer]:
    """One for the tests that only ask: a token every two milliseconds."""
    running = CoreServer(Served.of(mock_variant(itl_ms=2))).ready()
    yield running
    running.close()
