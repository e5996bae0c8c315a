"""Servers that somebody else runs, in simulated time: no room, no victim, out of reach and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.engine.roster import Traits
from enginery.engine.scheduler import EngineScheduler, SchedulingLimits
from enginery.engine.seam import (
    Cancelled,
    Grant,
    Lost,
    Outcome,
    Probe,
    QueuedRequest,
    Ready,
    Reject,
    Released,
    Requested,
    ShutdownAsked,
    Start,
    Stop,
    Stopped,
    Tick,
    Unhealthy,
    UnloadAsked,
    Unloaded,
)
from enginery.errors import EngineUnreachable
from enginery.lifecycle import State
from enginery.values import Memory, Variant

FAR = Variant("far", engine_type="openai", url="http://10.0.0.5:8000")
NEAR, OTHER = Variant("near", engine_type="mock"), Variant("other", engine_type="mock")
GONE = EngineUnreachable("far/default does not serve")


class Desk:
    """One scheduler, asked event by event."""

    def __init__(self, **limits) -> None:
        self.scheduler = EngineScheduler(
            SchedulingLimits(min_residency=0.0, **limits),
            lambda v: Traits(attached=True, memory=Memory({})) if v.attached else Traits(ttl=100.0),
        )
        self.now = 0.0
        self.requests = 0

    def tell(self, event, *kinds):
        """What follows, of these kinds."""
        actions = self.scheduler.handle(event, self.now)
        return [a for a in actions if isinstance(a, kinds or (Start, Stop, Probe, Grant, Reject))]

    def ask(self, *variants):
        self.requests += 1
        return self.tell(
            Requested(QueuedRequest(self.requests, variants, self.now, self.now + 600))
        )

    def state(self, variant=FAR):
        views = {view.variant.id: view.state for view in self.scheduler.instances()}
        return views.get(variant.id, State.STOPPED)


def ready(variant=FAR, generation=1):
    return Ready(variant.id, generation)


def lost(generation=1):
    return Lost(FAR.id, generation, GONE)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def out_of_reach(desk):
    desk.ask(FAR)
    desk.tell(lost())
    assert desk.state() is State.UNREACHABLE
    return desk


def test_it_starts_beside_whatever_runs_and_nobody_makes_room(desk):
    desk.ask(NEAR)
    desk.tell(ready(NEAR))
    assert [type(action) for action in desk.ask(FAR)] == [Start]
    assert [type(action) for action in desk.tell(ready())] == [Grant]
    assert (desk.state(NEAR), desk.state()) == (State.READY, State.READY)


def test_it_is_never_asked_to_make_room(desk):
    desk.ask(FAR)
    desk.tell(ready())
    started = desk.ask(NEAR)
    assert [(type(a), a.instance) for a in started] == [(Start, NEAR.id)]
    desk.tell(ready(NEAR))
    desk.tell(Released(2))
    (stop,) = desk.ask(OTHER)
    assert (type(stop), stop.instance) == (Stop, NEAR.id)
    assert desk.state() is State.READY


def test_a_budget_does_not_count_it():
    desk = Desk(budget={"gpu": 1})
    desk.ask(FAR)
    assert [type(a) for a in desk.tell(ready())] == [Grant]
    assert [type(a) for a in desk.ask(NEAR)] == [Start]


def test_being_idle_does_not_end_it(desk):
    desk.ask(FAR)
    desk.tell(ready())
    desk.tell(Released(1))
    desk.now += 1e6
    assert desk.tell(Tick()) == []
    assert desk.state() is State.READY


def test_one_that_does_not_answer_at_first_is_out_of_reach_and_who_waited_is_told(desk):
    desk.ask(FAR)
    (reject,) = desk.tell(lost())
    assert (type(reject), reject.error) == (Reject, GONE)
    assert desk.state() is State.UNREACHABLE


def test_each_request_has_it_looked_at_and_gets_what_is_seen(out_of_reach):
    for _ in range(20):  # no back-off, no quarantine: nothing is started
        (probe,) = out_of_reach.ask(FAR)
        assert probe == Probe(FAR.id, 1)
        assert [type(a) for a in out_of_reach.tell(lost())] == [Reject]
    out_of_reach.ask(FAR)
    assert [type(a) for a in out_of_reach.tell(ready())] == [Grant]
    assert out_of_reach.state() is State.READY


def test_many_requests_share_one_look(out_of_reach):
    assert [type(a) for a in out_of_reach.ask(FAR)] == [Probe]
    assert out_of_reach.ask(FAR) == []
    assert [type(a) for a in out_of_reach.tell(lost())] == [Reject, Reject]


def test_a_request_that_left_does_not_keep_the_next_from_a_look(out_of_reach):
    out_of_reach.ask(FAR)
    out_of_reach.tell(Cancelled(out_of_reach.requests))
    assert out_of_reach.tell(lost()) == []
    assert [type(a) for a in out_of_reach.ask(FAR)] == [Probe]


def test_it_comes_back_by_itself(out_of_reach):
    assert out_of_reach.tell(ready()) == []
    assert out_of_reach.state() is State.READY
    assert out_of_reach.scheduler.try_acquire((FAR,), 0.0) == (1, FAR.id, 1)


def test_a_model_that_has_another_variant_goes_there(out_of_reach):
    out_of_reach.ask(FAR, NEAR)
    (start,) = out_of_reach.tell(lost())
    assert (type(start), start.instance) == (Start, NEAR.id)


def test_open_requests_are_left_alone_when_it_is_lost(desk):
    desk.ask(FAR)
    desk.tell(ready())
    assert desk.scheduler.handle(lost(), 0.0)
    (view,) = desk.scheduler.instances()
    assert (view.state, view.in_flight, view.error) == (State.UNREACHABLE, 1, GONE)
    desk.tell(Released(1))
    assert desk.scheduler.instances()[0].in_flight == 0


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_request_that_failed_there_has_it_looked_at(desk, outcome):
    desk.ask(FAR)
    desk.tell(ready())
    looked = [type(a) for a in desk.tell(Released(1, outcome))]
    assert looked == ([Probe] if outcome is Outcome.ENGINE_ERROR else [])


def test_a_failed_health_check_says_that_it_is_out_of_reach_even_while_it_is_used(desk):
    desk.ask(FAR)
    desk.tell(ready())
    assert desk.tell(Unhealthy(FAR.id, 1)) == []
    assert desk.state() is State.UNREACHABLE


def test_unloading_one_that_is_out_of_reach_ends_the_looking(out_of_reach):
    out_of_reach.ask(FAR)
    actions = out_of_reach.tell(UnloadAsked(77, (FAR.id,)))
    assert {type(a) for a in actions} == {Stop, Reject}
    assert out_of_reach.tell(Stopped(FAR.id, 1), Unloaded) == [Unloaded(77)]
    assert out_of_reach.tell(ready()) == []
    (start,) = out_of_reach.ask(FAR)
    assert (type(start), start.generation) == (Start, 2)
    assert out_of_reach.tell(lost(generation=1)) == []


def test_a_shutdown_ends_it_in_every_state(out_of_reach):
    (stop,) = out_of_reach.tell(ShutdownAsked(1.0))
    assert (type(stop), stop.instance) == (Stop, FAR.id)


def test_news_of_an_engine_of_ours_never_makes_it_unreachable(desk):
    desk.ask(NEAR)
    desk.tell(ready(NEAR))
    desk.tell(Lost(NEAR.id, 1, GONE))
    assert desk.state(NEAR) is State.READY


# -- every order of things ---------------------------------------------------------------------------


class Remote:
    """The looks at a server that comes and goes: each start and probe is answered once, later."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.up = True
        self.unanswered: list[Start | Stop | Probe] = []
        self.waiting: set[int] = set()
        self.leases: list[int] = []

    def tell(self, event) -> None:
        for action in self.desk.tell(event):
            match action:
                case Start() | Stop() | Probe():
                    self.unanswered.append(action)
                case Grant(request):
                    assert self.desk.state() is State.READY
                    self.waiting.remove(request.id)
                    self.leases.append(action.lease_id)
                case Reject(request):
                    self.waiting.remove(request.id)

    def ask(self) -> None:
        self.desk.requests += 1
        request = QueuedRequest(self.desk.requests, (FAR,), self.desk.now, self.desk.now + 1e6)
        self.waiting.add(request.id)
        self.tell(Requested(request))

    def answer(self) -> None:
        if self.unanswered:
            action = self.unanswered.pop(0)
            at = (action.instance, action.generation)
            if isinstance(action, Stop):
                self.tell(Stopped(*at))
            else:
                self.tell(Ready(*at) if self.up else Lost(*at, GONE))

    def look(self) -> None:
        """By itself, not asked for."""
        views = self.desk.scheduler.instances()
        if views and views[0].state in {State.READY, State.UNREACHABLE, State.DRAINING}:
            at = (FAR.id, views[0].generation)
            self.tell(Ready(*at) if self.up else Lost(*at, GONE))

    def do(self, what: str) -> None:
        match what:
            case "ask":
                self.ask()
            case "answer":
                self.answer()
            case "look":
                self.look()
            case "up" | "down":
                self.up = what == "up"
            case "release" | "break" if self.leases:
                ok = Outcome.OK if what == "release" else Outcome.ENGINE_ERROR
                self.tell(Released(self.leases.pop(0), ok))
            case "leave" if self.waiting:
                left = self.waiting.pop()
                self.tell(Cancelled(left))
            case "unload":
                self.tell(UnloadAsked(10_000 + self.desk.requests, (FAR.id,)))
            case "unwell":
                self.tell(Unhealthy(FAR.id, 1))
            case "wait":
                self.desk.now += 7.0
                self.tell(Tick())


THINGS = [
    "ask",
    "answer",
    "look",
    "up",
    "down",
    "release",
    "break",
    "leave",
    "unload",
    "unwell",
    "wait",
]


@given(st.lists(st.sampled_from(THINGS), max_size=40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_whatever_happens_everybody_is_answered_once_the_looks_are(things, up):
    remote = Remote(Desk())
    for thing in things:
        remote.do(thing)
    remote.up = up
    remote.ask()
    for _ in range(200):  # leases end, so that drains do
        if remote.leases:
            remote.do("release")
        remote.answer()
    remote.look()
    assert remote.unanswered == []
    assert remote.waiting == set()
    assert remote.desk.state() is (State.READY if up else State.UNREACHABLE)
