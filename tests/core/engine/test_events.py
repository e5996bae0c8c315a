"""One stream, any number of listeners."""

from __future__ import annotations

import asyncio
import gc

from enginery.engine.events import BACKLOG, EngineEvent, EventHub


def following(hub: EventHub) -> tuple[list[EngineEvent], asyncio.Task[None]]:
    seen: list[EngineEvent] = []

    async def follow() -> None:
        async for event in hub.subscribe():
            seen.append(event)  # noqa: PERF401  # one by one, as they come

    return seen, asyncio.create_task(follow())


async def test_every_listener_gets_every_event_in_order_until_the_end() -> None:
    hub = EventHub()
    followers = [following(hub) for _ in range(3)]
    await asyncio.sleep(0)
    hub.publish("instance.state", "m", "m/default", before="stopped", after="starting")
    hub.publish("load.progress", "m", "m/default", fraction=0.5)
    hub.close()
    await asyncio.gather(*(task for _, task in followers))
    for seen, _ in followers:
        assert [(e.seq, e.type, e.model, e.variant) for e in seen] == [
            (1, "instance.state", "m", "m/default"),
            (2, "load.progress", "m", "m/default"),
        ]
        assert seen[1].data == {"fraction": 0.5}
        assert seen[0].at <= seen[1].at


async def test_numbers_go_on_while_nobody_listens() -> None:
    hub = EventHub()
    hub.publish("a", None, None)
    seen, task = following(hub)
    await asyncio.sleep(0)
    hub.publish("b", None, None)
    hub.close()
    await task
    assert [(e.seq, e.type) for e in seen] == [(2, "b")]


async def test_a_slow_listener_loses_the_oldest_and_sees_the_gap() -> None:
    hub = EventHub()
    seen, task = following(hub)
    await asyncio.sleep(0)
    for _ in range(BACKLOG + 10):
        hub.publish("tick", None, None)
    await asyncio.sleep(0)
    hub.close()
    await task
    assert [e.seq for e in seen] == list(range(11, BACKLOG + 11))


async def test_the_end_reaches_even_a_listener_that_is_far_behind() -> None:
    hub = EventHub()
    seen, task = following(hub)
    await asyncio.sleep(0)
    for _ in range(BACKLOG):
        hub.publish("tick", None, None)
    hub.close()
    await asyncio.wait_for(task, 30)
    assert seen[-1].seq == BACKLOG


async def test_a_listener_that_leaves_is_forgotten() -> None:
    hub = EventHub()
    _, task = following(hub)
    await asyncio.sleep(0)
    assert len(hub._subscriptions) == 1
    task.cancel()
    await asyncio.wait({task})
    del task
    gc.collect()
    assert not hub._subscriptions
    hub.publish("tick", None, None)


async def test_a_closed_hub_ends_new_listeners_at_once() -> None:
    hub = EventHub()
    hub.close()
    hub.close()
    seen, task = following(hub)
    await asyncio.wait_for(task, 30)
    assert seen == []
