"""What every test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# the same examples every time, however busy the machine is; --hypothesis-profile=explore looks for new ones
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", BUSY)
settings.register_profile("repeat", BUSY, derandomize=True)
settings.load_profile("repeat")

Eventually = Callable[..., Awaitable[Any]]


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
