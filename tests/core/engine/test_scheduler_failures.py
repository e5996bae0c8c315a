"""The scheduler against a simulated world: engines that fail to start, crash, seem unwell or will not die."""

from __future__ import annotations

import pytest

from enginery.engine.seam import (
    Exited,
    Failed,
    Ready,
    Reject,
    Start,
    StopFailed,
    Stopped,
    Unhealthy,
)
from enginery.errors import (
    EngineCrashed,
    EngineQuarantined,
    EngineStartFailed,
)
from enginery.lifecycle import State
from support.world import World


def test_a_load_that_fails_answers_everybody_who_waited_for_it_and_nobody_else():
    world = World()
    world.load_fails = True
    one, two = world.ask("a"), world.ask("a")
    other = world.ask("b")
    world.advance(2.0)
    for request_id in (one, two):
        answer = world.answers[request_id]
        assert isinstance(answer, Reject)
        assert isinstance(answer.error, EngineStartFailed)
    world.load_fails = False
    world.advance(2.0)
    assert other in world.open


def test_a_failed_model_is_tried_again_by_the_next_request():
    world = World()
    world.load_fails = True
    world.ask("a")
    world.advance(2.0)
    world.load_fails = False
    world.advance(1.0)
    again = world.ask("a")
    world.advance(2.0)
    assert again in world.open


def test_before_the_back_off_is_over_the_same_error_comes_at_once_with_a_time_to_come_back():
    world = World()
    world.load_fails = True
    world.ask("a")
    world.advance(2.0)
    soon = world.answers[world.ask("a")]
    assert isinstance(soon, Reject)
    assert isinstance(soon.error, EngineStartFailed)
    assert soon.error.retry_after == 1.0
    assert sum(isinstance(action, Start) for action in world.log) == 1


def test_who_asks_by_name_does_not_wait_for_the_back_off():
    world = World()
    world.load_fails = True
    world.ask("a")
    world.advance(2.0)
    world.load_fails = False
    again = world.ask("a", asked=True)
    world.advance(2.0)
    assert again in world.open


def test_a_broken_model_that_is_polled_costs_one_start_per_back_off_and_blocks_nobody():
    world = World()
    world.load_takes, world.load_fails = 0.1, True
    for _ in range(6000):
        world.ask("a")
        world.advance(0.1)
    starts = [action for action in world.log if isinstance(action, Start)]
    assert len(starts) == 5, "then it is in quarantine"
    last = world.answers[max(world.answers)]
    assert isinstance(last, Reject)
    assert isinstance(last.error, EngineQuarantined)
    world.load_fails = False
    other = world.ask("b")
    world.advance(0.1)
    assert other in world.open
    world.release(other)
    again = world.ask("a", asked=True)
    world.advance(1.0)
    assert again in world.open


def test_a_variant_that_fails_leaves_the_other_candidate():
    world = World()
    world.load_fails = True
    one = world.ask("a", others="b")
    world.advance(2.0)
    world.load_fails = False
    world.advance(2.0)
    assert world.open[one].instance == "b/default"


def test_a_crash_ends_its_leases_and_the_next_request_starts_the_engine_again():
    world = World()
    one = world.ask("a")
    world.advance(2.0)
    world.crash()
    assert isinstance(world.evicted[one].error, EngineCrashed)
    two = world.ask("a")
    world.advance(0.9)
    assert world.state("a/default") is State.FAILED, "the back-off is a second"
    world.advance(0.1 + 2.0)
    assert world.open[two].generation == 2


def test_late_news_of_an_earlier_process_changes_nothing():
    world = World()
    world.ask("a")
    world.advance(2.0)
    world.crash()
    world.ask("a")
    world.advance(3.0)
    before = world.scheduler.instances()
    for news in (
        Ready("a/default", 1),
        Exited("a/default", 1, EngineCrashed("old")),
        Stopped("a/default", 1),
        Failed("a/default", 1, EngineStartFailed("old")),
        Unhealthy("a/default", 1),
    ):
        assert world.tell(news) == []
    assert world.scheduler.instances() == before


@pytest.mark.parametrize("in_use", [True, False])
def test_an_unhealthy_engine_is_restarted_only_when_nobody_uses_it(in_use):
    world = World()
    one = world.ask("a")
    world.advance(2.0)
    if not in_use:
        world.release(one)
    world.tell(Unhealthy("a/default", 1))
    assert world.state("a/default") is (State.READY if in_use else State.STOPPING)


def test_an_engine_that_will_not_die_refuses_everything_else_and_says_why():
    world = World()
    world.ask("a")
    world.advance(2.0)
    world.release(1)
    other = world.ask("b")
    world.tell(StopFailed("a/default", 1, EngineStartFailed("pid 7 survived SIGKILL")))
    answer = world.answers[other]
    assert isinstance(answer, Reject)
    assert "pid 7 survived SIGKILL" in answer.error.message
    world.due.clear()
    world.stopped("a/default", 1)
    world.ask("b")
    world.advance(2.0)
    assert world.state("b/default") is State.READY, "it died at last"
