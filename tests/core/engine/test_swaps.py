"""Swaps, as they are told from changes of state."""

from __future__ import annotations

from enginery.engine.seam import SWAP_TO, Moved
from enginery.engine.swaps import SwapWatch
from enginery.lifecycle import State
from enginery.values import Variant

OLD, OTHER, NEW = (Variant(name, engine_type="mock") for name in ("old", "other", "org/new"))
WHY = f"{SWAP_TO}{NEW.id}"


def moved(variant: Variant, before: State, after: State, reason: str = "") -> Moved:
    return Moved(variant, 1, before, after, reason)


def test_a_swap_begins_once_and_ends_when_the_new_one_serves() -> None:
    watch = SwapWatch()
    news = watch.moved(moved(OLD, State.READY, State.DRAINING, WHY), 1.0)
    assert [(n.type, n.model, n.variant, n.data) for n in news] == [
        ("swap.begun", "org/new", NEW.id, {"victim": OLD.id})
    ]
    assert not watch.moved(moved(OTHER, State.READY, State.DRAINING, WHY), 2.0)
    assert not watch.moved(moved(OLD, State.DRAINING, State.STOPPING, WHY), 3.0)
    assert not watch.moved(moved(OLD, State.STOPPING, State.STOPPED), 4.0)
    assert not watch.moved(moved(NEW, State.STOPPED, State.STARTING), 5.0)
    (over,) = watch.moved(moved(NEW, State.STARTING, State.READY), 7.5)
    assert (over.type, over.variant) == ("swap.finished", NEW.id)
    assert over.data == {"outcome": "ok", "seconds": 6.5, "victims": [OLD.id, OTHER.id]}
    assert not watch.moved(moved(NEW, State.READY, State.DRAINING, "unload"), 9.0)


def test_a_swap_to_one_that_cannot_start_has_failed() -> None:
    for after, outcome in ((State.FAILED, "failed"), (State.STOPPING, "stopped")):
        watch = SwapWatch()
        watch.moved(moved(OLD, State.READY, State.DRAINING, WHY), 1.0)
        watch.moved(moved(NEW, State.STOPPED, State.STARTING), 2.0)
        (over,) = watch.moved(moved(NEW, State.STARTING, after), 3.0)
        assert over.data["outcome"] == outcome


def test_one_that_is_woken_for_a_swap_ends_it_too() -> None:
    watch = SwapWatch()
    watch.moved(moved(OLD, State.ASLEEP, State.STOPPING, WHY), 1.0)
    assert not watch.moved(moved(NEW, State.ASLEEP, State.WAKING), 2.0)
    assert len(watch.moved(moved(NEW, State.WAKING, State.READY), 3.0)) == 1


def test_a_load_that_nobody_makes_room_for_and_an_unload_are_no_swaps() -> None:
    watch = SwapWatch()
    assert not watch.moved(moved(NEW, State.STOPPED, State.STARTING), 1.0)
    assert not watch.moved(moved(NEW, State.STARTING, State.READY), 2.0)
    assert not watch.moved(moved(NEW, State.READY, State.DRAINING, "idle (ttl)"), 3.0)
