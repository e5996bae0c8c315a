"""An engine that fell silent: no new leases until one token, else a restart. Good health changes nothing."""

from __future__ import annotations

from enginery.engine.roster import Traits
from enginery.engine.scheduler import EngineScheduler
from enginery.engine.seam import (
    Cleared,
    Condemned,
    Evict,
    Examine,
    Grant,
    Lost,
    Moved,
    QueuedRequest,
    Ready,
    Reject,
    Requested,
    Suspected,
)
from enginery.errors import EngineTimeout, EngineUnreachable
from enginery.lifecycle import State
from enginery.values import Memory, Variant
from support.world import MODELS, World

A = MODELS["a"].id
SILENT = EngineTimeout("a/default did not generate one token in 30 s")


def ready_world() -> World:
    world = World()
    first = world.ask("a")
    world.advance(5.0)
    world.release(first)
    return world


def kinds(world: World, kind: type) -> list:
    return [action for action in world.log if isinstance(action, kind)]


def test_a_suspect_gets_no_new_lease_until_it_has_generated_a_token():
    world = ready_world()
    world.tell(Suspected(A, 1))
    waiting = world.ask("a")
    assert waiting not in world.answers
    (view,) = world.scheduler.instances()
    assert (view.suspect, view.state, view.queued) == (True, State.READY, 1)
    assert view.reason.startswith("suspect")
    world.advance(1.0)
    assert isinstance(world.answers[waiting], Grant)
    (view,) = world.scheduler.instances()
    assert (view.suspect, view.reason, view.generation) == (False, "", 1)


def test_one_that_gives_no_token_is_restarted_for_who_waits():
    world = ready_world()
    world.is_stuck = True
    world.tell(Suspected(A, 1))
    waiting = world.ask("a")
    world.advance(10.0)
    answer = world.answers[waiting]
    assert isinstance(answer, Grant)
    assert answer.generation == 2
    assert any(move.reason.startswith("stalled: ") for move in kinds(world, Moved))


def test_its_open_requests_may_finish_and_are_evicted_in_the_end():
    world = ready_world()
    world.is_stuck = True
    world.ask("a")
    world.tell(Suspected(A, 1))
    world.advance(world.limits.drain_timeout - 1.0)
    assert kinds(world, Evict) == []
    world.advance(2.0)
    (evicted,) = kinds(world, Evict)
    assert "stalled" in evicted.error.message


def test_it_is_examined_once_however_many_fall_silent_with_it():
    world = ready_world()
    for _ in range(3):
        world.tell(Suspected(A, 1))
    assert len(kinds(world, Examine)) == 1
    world.advance(1.0)
    world.tell(Suspected(A, 1))
    assert len(kinds(world, Examine)) == 2


def test_news_of_an_earlier_process_raises_no_suspicion():
    world = ready_world()
    world.tell(Suspected(A, 0))
    assert not world.suspects()


def test_verdicts_that_come_late_change_nothing():
    world = ready_world()
    world.tell(Condemned(A, 1, SILENT))  # nobody suspects it
    world.tell(Cleared(A, 1))
    assert world.state(A) is State.READY
    world.tell(Suspected(A, 1))
    world.crash()
    world.tell(Condemned(A, 1, SILENT))
    assert world.state(A) is State.FAILED


# -- servers that somebody else runs -----------------------------------------------------------------

REMOTE = Variant(model="r", engine_type="openai", url="http://127.0.0.1:1")
R = REMOTE.id


class Remote:
    """A scheduler with one attached server that is ready and suspect."""

    def __init__(self) -> None:
        traits = Traits(memory=Memory({}), attached=True)
        self.scheduler = EngineScheduler(traits=lambda _: traits)
        self.ids = iter(range(1, 100))
        self.ask()
        self.tell(Ready(R, 1))
        self.actions = self.tell(Suspected(R, 1))

    def tell(self, event):
        self.actions = self.scheduler.handle(event, 0.0)
        return self.actions

    def ask(self):
        return self.tell(Requested(QueuedRequest(next(self.ids), (REMOTE,), 0.0, 100.0)))

    @property
    def state(self):
        (view,) = self.scheduler.instances()
        return view.state

    def has(self, kind):
        return any(isinstance(action, kind) for action in self.actions)


def test_an_attached_server_that_gives_no_token_is_unreachable_and_not_stopped():
    remote = Remote()
    assert remote.has(Examine)
    remote.ask()
    remote.tell(Condemned(R, 1, SILENT))
    assert remote.state is State.UNREACHABLE
    (turned_away,) = [action for action in remote.actions if isinstance(action, Reject)]
    assert isinstance(turned_away.error, EngineUnreachable)
    assert "did not generate" in turned_away.error.message


def test_its_good_health_does_not_bring_it_back_and_a_token_does():
    remote = Remote()
    remote.tell(Condemned(R, 1, SILENT))
    remote.tell(Ready(R, 1))
    assert remote.has(Examine)
    assert remote.state is State.UNREACHABLE
    remote.ask()
    remote.tell(Ready(R, 1))
    assert not remote.has(Examine)  # one at a time
    remote.tell(Cleared(R, 1))
    assert remote.state is State.READY
    assert remote.has(Grant)


def test_one_that_is_lost_while_it_is_examined_comes_back_by_a_token_alone():
    remote = Remote()
    remote.tell(Lost(R, 1, EngineUnreachable("gone")))
    remote.tell(Condemned(R, 1, SILENT))
    assert remote.state is State.UNREACHABLE
    remote.tell(Ready(R, 1))
    assert remote.has(Examine)
    remote.tell(Cleared(R, 1))
    assert remote.state is State.READY
