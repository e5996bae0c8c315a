"""What every test may use, and the event loop that it runs on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.command_line import CommandLine

# the same examples every time, however busy the machine is; --hypothesis-profile=explore looks for new ones
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", BUSY)
settings.register_profile("repeat", BUSY, derandomize=True)
settings.load_profile("repeat")

try:
    import uvloop
except ImportError:  # where it does not install
    LOOPS = {"asyncio": asyncio.new_event_loop}
else:
    LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

Eventually = Callable[..., Awaitable[Any]]
Loops = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Loops:
    """asyncio's own, as for applications in Python; each that there is for what is marked ``both_loops``."""
    return LOOPS if item.get_closest_marker("both_loops") else {"asyncio": LOOPS["asyncio"]}


def pytest_collection_finish() -> None:
    """What collecting made stays to the end: a test that collects garbage looks only through what came after it.

    Thousands of tests and what they import are 400,000 objects, a quarter of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def eventually() -> Eventually:
    """``await eventually(predicate, timeout=30.0)``: its first true value, or a failure at the deadline."""

    async def wait(predicate: Callable[[], Any], timeout: float = 30.0) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not (value := predicate()):
            if loop.time() > deadline:
                pytest.fail(f"not within {timeout:g} s")
            await asyncio.sleep(0.005)
        return value

    return wait


@pytest.fixture(scope="session")
def command_line(tmp_path_factory) -> Iterator[CommandLine]:
    """The ``enginery`` command, imported once and run by many tests."""
    with CommandLine(tmp_path_factory.mktemp("client")) as command_line:
        yield command_line
