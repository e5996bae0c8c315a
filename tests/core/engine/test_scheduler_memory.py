"""Several residents: who makes room, who sleeps, who stays."""

from __future__ import annotations

import pytest

from enginery.engine.roster import Traits
from enginery.engine.scheduler import SchedulingLimits
from enginery.engine.seam import (
    MemoryMeasured,
    Reject,
    SleepFailed,
    Start,
    Stop,
    StopFailed,
    UnloadAsked,
)
from enginery.errors import (
    EngineCrashed,
    EngineStartFailed,
)
from enginery.lifecycle import State
from enginery.values import Memory
from support.world import World

# -- memory --------------------------------------------------------------------------------------

GPU = SchedulingLimits(budget={"gpu": 10})


def sized(**sizes: int) -> dict[str, Traits]:
    return {model: Traits(memory=Memory({"gpu": size})) for model, size in sizes.items()}


def test_engines_that_fit_together_stay_together():
    world = World(GPU, sized(a=4, b=6, c=5))
    a, b = world.ask("a"), world.ask("b")
    world.advance(2.0)
    assert {a, b} <= world.open.keys()
    assert not any(isinstance(action, Stop) for action in world.log)


def test_the_engine_that_was_idle_for_longest_makes_room_and_only_as_many_as_needed():
    world = World(GPU, sized(a=3, b=3, c=3, d=4))
    for model in "abc":
        request = world.ask(model)
        world.advance(2.0)
        world.release(request)
        world.advance(1.0)
    wanted = world.ask("d")
    world.advance(2.5)
    assert wanted in world.open
    assert [a.instance for a in world.log if isinstance(a, Stop)] == ["a/default"]


def test_an_engine_that_loads_quickly_makes_room_before_one_that_loads_slowly():
    world = World(GPU, sized(a=5, b=5, c=5))
    world.load_takes = 20.0
    slow = world.ask("a")
    world.advance(20.0)
    world.load_takes = 1.0
    quick = world.ask("b")
    world.advance(1.0)
    world.release(slow)
    world.release(quick)
    world.advance(5.0)
    world.ask("c")
    world.advance(2.0)
    assert [a.instance for a in world.log if isinstance(a, Stop)] == ["b/default"]


def test_an_engine_of_unknown_size_runs_alone():
    world = World(GPU, sized(a=4))
    a = world.ask("a")
    world.advance(2.0)
    world.release(a)
    b = world.ask("b")
    world.advance(2.5)
    assert b in world.open
    assert list(world.processes) == ["b/default"]


def test_what_was_measured_counts_from_then_on():
    world = World(GPU)
    b = world.ask("b")
    world.advance(2.0)
    world.traits["b"] = Traits(memory=Memory({"gpu": 3}))  # what the world checks against
    world.tell(MemoryMeasured("b/default", 1, {"gpu": 3}))
    world.traits["a"] = Traits(memory=Memory({"gpu": 4}))
    a = world.ask("a")
    world.advance(2.0)
    assert {a, b} <= world.open.keys()


@pytest.mark.parametrize("estimate", [None, Memory({"gpu": 6})], ids=["unknown", "estimated"])
def test_a_measurement_that_leaves_a_device_of_the_budget_out_says_nothing_of_it(estimate):
    """Main memory is always measured; a device is not where its driver's library is missing."""
    world = World(GPU, traits={model: Traits(memory=estimate) for model in "ab"})
    for model in "ab":
        one = world.ask(model)
        world.advance(3.0)
        world.tell(MemoryMeasured(f"{model}/default", 1, {"ram": 3}))
        world.release(one)
    world.ask("a")
    world.advance(3.0)
    assert list(world.processes) == ["a/default"]


def test_what_the_driver_says_counts_before_the_estimate_and_that_before_what_is_gone():
    world = World(GPU, traits={"a": Traits(memory=Memory({"gpu": 6}))})
    told = [({"gpu": 2}, {"gpu": 9}, {"gpu": 2}), ({}, {"gpu": 9}, {"gpu": 6})]
    world.ask("a")
    world.advance(2.0)
    for held, gone, counts in told:
        world.tell(MemoryMeasured("a/default", 1, held, gone))
        assert world.scheduler.instances()[0].memory == counts
    world.tell(UnloadAsked(7, ("a/default",), drain=False))
    world.advance(1.0)
    world.ask("b")
    world.advance(2.0)
    world.tell(MemoryMeasured("b/default", 1, {"ram": 1}, {"gpu": 9}))
    assert world.scheduler.instances()[1].memory == {"ram": 1, "gpu": 9}


def test_a_model_that_is_larger_than_the_budget_is_refused_with_both_numbers():
    world = World(SchedulingLimits(budget={"gpu": 8 * 2**30}), sized(a=12 * 2**30))
    answer = world.answers[world.ask("a")]
    assert isinstance(answer, Reject)
    assert "needs 12.0 GiB on gpu, the budget is 8.0 GiB" in answer.error.message


def test_a_pinned_engine_never_makes_room():
    traits = sized(a=6, b=6)
    traits["a"] = Traits(memory=Memory({"gpu": 6}), pin=True, ttl=1.0)
    world = World(GPU, traits)
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    answer = world.answers[world.ask("b")]
    assert isinstance(answer, Reject)
    assert "does not fit beside a/default" in answer.error.message
    world.advance(1000.0)
    assert world.state("a/default") is State.READY, "not even for being idle"


def test_a_leaked_engine_keeps_its_device_and_other_devices_go_on():
    traits = sized(a=2, b=2)
    traits["c"] = Traits(memory=Memory({"other": 2}))
    world = World(GPU, traits)
    world.ask("a")
    world.advance(2.0)
    world.tell(StopFailed("a/default", 1, EngineStartFailed("pid 7 survived SIGKILL")))
    world.ready.clear()
    refused = world.answers[world.ask("b")]
    assert isinstance(refused, Reject)
    assert "pid 7 survived SIGKILL" in refused.error.message
    elsewhere = world.ask("c")
    world.advance(2.0)
    assert elsewhere in world.open


# -- rest ----------------------------------------------------------------------------------------


def test_an_engine_that_is_idle_for_its_ttl_is_stopped():
    world = World(traits={"a": Traits(ttl=60.0)})
    one = world.ask("a")
    world.advance(100.0)
    assert one in world.open, "not while it works"
    world.release(one)
    world.advance(59.0)
    world.release(world.ask("a"))
    world.advance(59.9)
    assert world.state("a/default") is State.READY, "work starts the time anew"
    world.advance(0.1 + 0.5)
    assert not world.processes


@pytest.mark.parametrize("around", [-0.01, 0.0, 0.01, 0.3, 0.5])
def test_a_request_that_comes_just_when_its_engine_goes_is_always_served(around):
    world = World(traits={"a": Traits(ttl=10.0)})
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    world.advance(10.0 + around)
    late = world.ask("a")
    world.advance(5.0)
    assert late in world.open


def test_an_engine_that_can_sleep_sleeps_when_idle_and_wakes_for_a_request():
    world = World(traits={"a": Traits(sleep_level=1, sleep_after=5.0, ttl=100.0)})
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    world.advance(5.5)
    assert world.state("a/default") is State.ASLEEP
    two = world.ask("a")
    world.advance(0.3)
    assert two in world.open
    assert world.open[two].generation == 1, "the same process"
    world.release(two)
    world.advance(5.5)
    assert world.state("a/default") is State.ASLEEP
    world.advance(100.0)
    assert world.state("a/default") is State.STOPPED, "sleeping, it still is idle"


def test_without_a_budget_a_swap_lets_the_old_engine_sleep_beside_the_new_one():
    world = World(traits={"a": Traits(sleep_level=1), "b": Traits(sleep_level=1)})
    for model in "abab":
        request = world.ask(model)
        world.advance(2.5)
        assert request in world.open
        world.release(request)
    assert sum(isinstance(action, Start) for action in world.log) == 2
    assert world.naps == ["a/default", "b/default", "a/default"]


def test_with_a_budget_an_engine_sleeps_only_where_its_sleep_leaves_room():
    traits = {
        "a": Traits(memory=Memory({"gpu": 6}, {"gpu": 1}), sleep_level=1),
        "b": Traits(memory=Memory({"gpu": 9})),
        "c": Traits(memory=Memory({"gpu": 10})),
    }
    world = World(GPU, traits)
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    b = world.ask("b")
    world.advance(2.5)
    assert b in world.open
    assert world.state("a/default") is State.ASLEEP
    world.release(b)
    c = world.ask("c")
    world.advance(2.5)
    assert c in world.open
    assert list(world.processes) == ["c/default"]


def test_an_engine_that_cannot_wake_is_started_anew():
    world = World(traits={"a": Traits(sleep_level=1, sleep_after=5.0)})
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    world.advance(5.5)
    two = world.ask("a")
    world.tell(SleepFailed("a/default", 1, EngineCrashed("wake_up answered 500")))
    world.advance(3.0)
    assert world.open[two].generation == 2


def test_unload_ends_a_sleeper_too():
    world = World(traits={"a": Traits(sleep_level=1, sleep_after=5.0)})
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    world.advance(5.5)
    world.tell(UnloadAsked(77, ("a/default",)))
    world.advance(0.5)
    assert world.unloaded[77].error is None
    assert not world.processes
