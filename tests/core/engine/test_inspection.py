"""What is told of the engine room: to whom, and of what."""

from __future__ import annotations

import asyncio
import logging

import pytest

from enginery import EngineManager, Settings
from enginery.engine.events import EventHub
from enginery.engine.logs import EngineLog
from enginery.errors import PluginError
from enginery.plugins import PluginState
from enginery.settings.secrets import Redactor


async def test_who_wants_some_events_gets_those_and_costs_requests_nothing() -> None:
    hub = EventHub()
    states = hub.subscribe("instance.", "swap.")
    assert not hub.listening
    everything = hub.subscribe()
    assert hub.listening
    for type_ in ("request.queued", "instance.state", "swap.begun", "memory.sampled"):
        hub.publish(type_, None, None)
    hub.close()
    assert [event.type async for event in states] == ["instance.state", "swap.begun"]
    assert len([event async for event in everything]) == 4


@pytest.mark.parametrize("only", ["request.", "request.finished", "req"])
def test_who_wants_to_hear_of_requests_is_heard_of(only: str) -> None:
    hub = EventHub()
    listener = hub.subscribe(only)
    assert hub.listening
    del listener


async def test_plugins_that_cannot_be_used_are_told() -> None:
    manager = EngineManager(Settings(plugins={"deny": ["enginery-mock"]}))
    told = manager.inspection.subscribe("plugin.")
    async with manager:
        row = manager.registry.rows(load=False)[0]
        assert row.state is not PluginState.READY  # nothing was imported for it
        manager.registry.on_trouble(row)
        with pytest.raises(PluginError):
            manager.registry.hooks("mock")
    events = [event async for event in told]
    assert [(event.type, event.data["distribution"]) for event in events] == [
        ("plugin.blocked", "enginery-mock"),
        ("plugin.broken", row.distribution),
    ]
    assert "deny list" in events[0].data["reason"]


async def test_a_follower_begins_with_what_was_there_and_sees_no_secret(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    log = EngineLog("of-a-test", hide=Redactor(["canary-1"]))
    for number in range(3):
        log.add(f"{number}: canary-1", logging.INFO)
    following = log.follow(2)
    assert [await anext(following) for _ in range(2)] == ["1: ***", "2: ***"]
    coming = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    log.add("3: canary-1", logging.INFO)
    assert await coming == "3: ***"
    log.close()
    assert [line async for line in following] == []
    assert [line async for line in log.follow(1)] == ["3: ***"]  # after its end too
    assert "canary-1" not in caplog.text
