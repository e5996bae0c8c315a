"""A lease ends once, and knows why its engine went."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from enginery.engine.client import PluginEngineClient
from enginery.engine.instance import EngineInstance
from enginery.engine.lease import Lease
from enginery.engine.seam import Outcome
from enginery.errors import EngineEvicted, EngineryError
from enginery.values import Endpoint, Variant

ENDPOINT = Endpoint("127.0.0.1", 1)
EVICTED = EngineEvicted("made room for another")


@pytest.fixture
def ends() -> list[Outcome]:
    return []


@pytest.fixture
def lease(ends) -> Lease:
    instance = SimpleNamespace(variant=Variant("m"), hooks=None, endpoint=ENDPOINT)
    return Lease(
        7,
        (3, "m/default", 2),
        cast("EngineInstance", instance),
        lambda of: cast("PluginEngineClient", ("client", of)),
        lambda _, outcome: ends.append(outcome),
        queue_s=0.5,
        swap_s=1.5,
    )


def test_a_lease_carries_what_was_granted(lease) -> None:
    assert (lease.request_id, lease.id, lease.instance) == (7, 3, "m/default")
    assert lease.generation == 2
    assert (lease.queue_s, lease.swap_s) == (0.5, 1.5)
    assert not lease.released
    assert lease.endpoint is ENDPOINT


def test_a_client_is_made_once_and_only_when_it_is_wanted(lease) -> None:
    assert lease.client is lease.client


def test_a_lease_is_released_once(lease, ends) -> None:
    lease.release("client_gone")
    lease.release(Outcome.OK)
    assert lease.released
    assert ends == [Outcome.CLIENT_GONE]


def test_an_unknown_outcome_is_a_defect_of_the_caller(lease) -> None:
    with pytest.raises(ValueError, match="shrug"):
        lease.release("shrug")


def test_an_evicted_lease_tells_its_holder_and_is_released_as_evicted(lease, ends) -> None:
    told: list[EngineryError] = []
    lease.on_evict(told.append)
    lease.evict(EVICTED)
    lease.evict(EVICTED)
    assert told == [EVICTED]
    lease.release(Outcome.OK)
    assert ends == [Outcome.EVICTED]


def test_a_holder_that_listens_late_is_told_at_once(lease) -> None:
    told: list[EngineryError] = []
    lease.evict(EVICTED)
    lease.on_evict(told.append)
    assert told == [EVICTED]


def test_a_lease_that_ended_hears_nothing_more(lease) -> None:
    told: list[EngineryError] = []
    lease.on_evict(told.append)
    lease.release()
    lease.on_evict(told.append)
    lease.evict(EVICTED)
    assert told == []
