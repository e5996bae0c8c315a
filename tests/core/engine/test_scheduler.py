"""The scheduler against a simulated world: whose turn it is, who waits, who makes room, who stops."""

from __future__ import annotations

from enginery.engine.scheduler import SchedulingLimits
from enginery.engine.seam import (
    Grant,
    Reject,
    ShutdownAsked,
    Start,
    UnloadAsked,
)
from enginery.errors import (
    EngineBusy,
    EngineEvicted,
    QueueFull,
    ShuttingDown,
)
from enginery.lifecycle import State
from support.world import LIMITS, World


def test_a_cold_model_is_started_and_its_request_granted_when_it_is_ready():
    world = World()
    one = world.ask("a")
    assert world.processes == {"a/default": 1}
    assert one not in world.answers
    world.advance(2.0)
    answer = world.answers[one]
    assert isinstance(answer, Grant)
    assert (answer.queue_s, answer.swap_s) == (0.0, 2.0)


def test_a_thousand_first_requests_cause_one_start():
    world = World(SchedulingLimits(max_queue=1000))
    for _ in range(1000):
        world.ask("a")
    world.advance(2.0)
    assert sum(isinstance(action, Start) for action in world.log) == 1
    assert len(world.open) == 1000


def test_a_request_for_the_resident_model_is_granted_in_the_same_call():
    world = World()
    world.ask("a")
    world.advance(2.0)
    assert world.ask("a") in world.open


def test_an_idle_engine_makes_room_at_once():
    world = World()
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    two = world.ask("b")
    world.advance(0.5 + 2.0)
    assert two in world.open


def test_a_busy_engine_keeps_serving_its_own_until_another_model_waited_long_enough():
    world = World()
    first = world.ask("a")
    world.advance(2.0)
    other = world.ask("b")
    world.advance(29.0)
    assert world.ask("a") in world.open
    world.advance(1.0)
    late = world.ask("a")
    assert late not in world.open, "the engine drains: its next turn comes after b's"
    for request_id in list(world.open):
        world.release(request_id)
    world.advance(0.5 + 2.0)
    assert other in world.open
    assert first in world.answers


def test_a_drain_that_takes_too_long_evicts_with_an_error_that_says_why():
    world = World()
    stuck = world.ask("a")
    world.advance(2.0)
    other = world.ask("b")
    world.advance(30.0 + 60.0 + 0.5 + 2.0)
    error = world.evicted[stuck].error
    assert isinstance(error, EngineEvicted)
    assert "swap to b/default" in error.message
    assert other in world.open


def test_two_waiting_models_are_both_served_in_order_of_age():
    world = World()
    world.ask("a")
    world.advance(2.0)
    b = world.ask("b")
    c = world.ask("c")
    world.release(1)
    world.advance(2.5)
    assert b in world.open
    assert c not in world.open
    world.release(b)
    world.advance(2.5)
    assert c in world.open


def test_priority_decides_among_those_who_are_not_overdue():
    world = World()
    world.ask("a")
    world.advance(2.0)
    world.ask("b")
    high = world.ask("c", priority=5)
    world.release(1)
    world.advance(2.5)
    assert high in world.open


def test_once_overdue_age_goes_before_priority():
    world = World()
    world.ask("a")
    world.advance(2.0)
    low = world.ask("b", priority=-1)
    world.advance(30.5)
    world.ask("c", priority=1)
    world.release(1)
    world.advance(2.5)
    assert low in world.open


def test_a_stream_of_important_requests_for_others_does_not_starve_a_modest_one():
    world = World()
    world.load_takes, world.stop_takes = 10.0, 5.0
    for model in "ac":
        world.ask(model, priority=1)
    modest = world.ask("b", priority=-1)
    while modest not in world.answers:
        world.ask("a", priority=1)
        world.ask("c", priority=1)
        world.advance(3.0)
        for request_id in list(world.open)[:-1]:
            world.release(request_id)
    assert modest in world.open


def test_a_small_request_uses_the_resident_variant_instead_of_swapping():
    world = World()
    world.ask("b")
    world.advance(2.0)
    one = world.ask("a", others="b")
    assert world.open[one].instance == "b/default"


def test_a_load_that_everybody_left_goes_on_while_nobody_else_waits():
    world = World()
    world.cancel(world.ask("a"))
    world.advance(2.0)
    assert world.state("a/default") is State.READY


def test_a_load_that_everybody_left_makes_room_when_another_model_waits():
    world = World()
    world.cancel(world.ask("a"))
    other = world.ask("b")
    world.advance(0.5 + 2.0)
    assert other in world.open


def test_a_cancelled_request_never_loads_a_model():
    world = World()
    world.ask("a")
    world.advance(2.0)
    world.cancel(world.ask("b"))
    world.release(1)
    world.advance(1000.0)
    assert world.state("b/default") is State.STOPPED
    assert world.state("a/default") is State.READY


def test_a_queue_that_is_full_refuses_with_a_time_to_come_back():
    world = World()
    ids = [world.ask("a") for _ in range(LIMITS.max_queue + 1)]
    answer = world.answers[ids[-1]]
    assert isinstance(answer, Reject)
    assert isinstance(answer.error, QueueFull)
    assert answer.error.retry_after is not None
    assert answer.error.retry_after <= 120
    assert world.ask("b") not in world.answers, "another model has its own queue"


def test_a_request_gives_up_at_its_deadline():
    world = World()
    world.ask("a")
    world.advance(2.0)
    one = world.ask("b", patience=7.0)
    world.advance(7.0)
    answer = world.answers[one]
    assert isinstance(answer, Reject)
    assert isinstance(answer.error, EngineBusy)


def test_unload_drains_and_answers_when_nothing_is_left():
    world = World()
    one = world.ask("a")
    world.advance(2.0)
    world.tell(UnloadAsked(77, ("a/default",)))
    world.advance(1.0)
    assert 77 not in world.unloaded
    world.release(one)
    world.advance(0.5)
    assert world.unloaded[77].error is None
    assert not world.processes


def test_unload_without_drain_evicts_at_once():
    world = World()
    one = world.ask("a")
    world.advance(2.0)
    world.tell(UnloadAsked(77, ("a/default",), drain=False))
    assert isinstance(world.evicted[one].error, EngineEvicted)
    world.advance(0.5)
    assert 77 in world.unloaded


def test_unload_in_the_middle_of_a_load_answers_those_who_waited():
    world = World()
    one = world.ask("a")
    world.tell(UnloadAsked(77, ("a/default",)))
    answer = world.answers[one]
    assert isinstance(answer, Reject)
    assert isinstance(answer.error, EngineEvicted)
    world.advance(0.5)
    assert 77 in world.unloaded
    assert not world.processes


def test_unload_of_what_does_not_run_is_done_at_once():
    world = World()
    world.tell(UnloadAsked(77, ("a/default", "b/default")))
    assert world.unloaded[77].error is None


def test_shutdown_refuses_the_waiting_drains_the_open_and_stops_all():
    world = World()
    one = world.ask("a")
    world.advance(2.0)
    two = world.ask("b")
    world.tell(ShutdownAsked(3.0))
    three = world.ask("a")
    for request_id in (two, three):
        answer = world.answers[request_id]
        assert isinstance(answer, Reject)
        assert isinstance(answer.error, ShuttingDown)
    world.advance(2.9)
    assert one in world.open
    world.advance(0.1 + 0.5)
    assert one in world.evicted
    assert not world.processes
