"""The scheduler under any mix of traffic, crashes, failures, naps and cancellations."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enginery.engine.roster import Traits
from enginery.engine.scheduler import SchedulingLimits
from enginery.engine.seam import (
    ShutdownAsked,
    Suspected,
    Tick,
    Unhealthy,
    UnloadAsked,
)
from enginery.values import Memory
from support.world import LOAD, MODELS, STOP, World

# -- whatever happens ----------------------------------------------------------------------------


class Scheduling(RuleBasedStateMachine):
    """Any mix of traffic, crashes, failures and cancellations."""

    @initialize()
    def begin(self):
        self.world = self.make()

    @staticmethod
    def make() -> World:
        return World()

    @rule(
        model=st.sampled_from("abcd"),
        priority=st.integers(-1, 1),
        others=st.sampled_from(["", "d"]),
    )
    def ask(self, model, priority, others):
        self.world.ask(model, priority=priority, others=others.replace(model, ""))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 31.0]))
    def time_passes(self, seconds):
        self.world.advance(seconds)

    @rule(load=st.floats(0.0, LOAD), stop=st.floats(0.0, STOP), fails=st.booleans())
    def engines_change_their_pace(self, load, stop, fails):
        self.world.load_takes, self.world.stop_takes, self.world.load_fails = load, stop, fails

    @precondition(lambda self: self.world.open)
    @rule(data=st.data())
    def a_request_is_done(self, data):
        self.world.release(data.draw(st.sampled_from(sorted(self.world.open))))

    @precondition(lambda self: self.world.waiting())
    @rule(data=st.data())
    def a_client_leaves(self, data):
        self.world.cancel(data.draw(st.sampled_from([r.id for r in self.world.waiting()])))

    @precondition(lambda self: self.world.ready)
    @rule()
    def the_engine_crashes(self):
        self.world.crash()

    @precondition(lambda self: self.world.ready)
    @rule()
    def the_engine_seems_unwell(self):
        self.world.bounded = False
        instance, generation = next(iter(self.world.ready))
        self.world.tell(Unhealthy(instance, generation))

    @precondition(lambda self: self.world.ready)
    @rule(stuck=st.booleans())
    def the_engine_falls_silent(self, stuck):
        self.world.bounded = False
        self.world.is_stuck = stuck
        instance, generation = next(iter(self.world.ready))
        self.world.tell(Suspected(instance, generation))

    @rule(models=st.sets(st.sampled_from("abcd"), min_size=1), drain=st.booleans())
    def somebody_unloads(self, models, drain):
        self.world.bounded = False  # an order from outside may take anybody's turn
        instances = tuple(MODELS[model].id for model in sorted(models))
        self.world.asked_to_unload.append(next(self.world.ids))
        self.world.tell(UnloadAsked(self.world.asked_to_unload[-1], instances, drain))

    @invariant()
    def leases_are_counted_where_they_are(self):
        if hasattr(self, "world"):
            counted = sum(view.in_flight for view in self.world.scheduler.instances())
            assert counted == len(self.world.open)

    def teardown(self):
        world = getattr(self, "world", None)
        if world is None:
            return
        world.load_fails = world.is_stuck = False
        for _ in range(80):
            for request_id in list(world.open):
                world.release(request_id)
            world.advance(20.0)
        assert world.waiting() == [], "a request was lost"
        assert world.asked_to_unload == sorted(world.unloaded), "an unload was lost"
        world.tell(ShutdownAsked(0.0))
        world.advance(STOP)
        assert not world.processes
        assert world.scheduler.handle(Tick(), world.now) == []


class SchedulingWithBudget(Scheduling):
    """The same with several residents, naps, pins and engines of unknown size."""

    @staticmethod
    def make() -> World:
        world = World(
            SchedulingLimits(max_queue=8, budget={"gpu": 10, "ram": 10}),
            {
                "a": Traits(memory=Memory({"gpu": 6}, {"gpu": 1}), sleep_level=1, sleep_after=20.0),
                "b": Traits(memory=Memory({"gpu": 4, "ram": 8}), ttl=15.0),
                "c": Traits(
                    memory=Memory({"gpu": 5, "ram": 3}, {"ram": 3}), sleep_level=2, ttl=50.0
                ),
            },
        )
        world.bounded = False  # the bound is one resident's
        return world


SchedulingWithBudget.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestSchedulingWithBudget = SchedulingWithBudget.TestCase
Scheduling.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
