"""The diff of two sets of variants, and what the scheduler makes of it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from enginery import Settings
from enginery.engine.catalog import Catalog
from enginery.engine.changes import Fate, Sketch, sketch, variant_changes
from enginery.engine.policy import SchedulingLimits
from enginery.engine.scheduler import EngineScheduler
from enginery.engine.seam import (
    Evict,
    Grant,
    QueuedRequest,
    Ready,
    Reconfigured,
    Reject,
    Released,
    Requested,
    Start,
    Stop,
    Stopped,
)
from enginery.errors import ModelNotFound
from enginery.lifecycle import State
from enginery.plugins import PluginRegistry
from enginery.values import Command, Variant

# -- the diff ----------------------------------------------------------------------------------

variants = st.builds(
    Variant,
    model=st.sampled_from("abc"),
    engine_type=st.sampled_from(["mock", "other"]),
    context_length=st.sampled_from([None, 512]),
    features=st.sampled_from([None, frozenset({"chat"})]),
    env=st.sampled_from([{}, {"A": "1"}]),
)


@st.composite
def sketches(draw):
    """Variants by id, each with a command line that shows some of it, as plugins' do."""
    found = {}
    for variant in draw(st.lists(variants, max_size=4)):
        argv = [variant.engine_type, str(draw(st.sampled_from([variant.context_length, 0])))]
        found[variant.id] = Sketch(variant, Command(argv, env=variant.env))
    return found


def argv_of(**model: object) -> list[str]:
    registry = PluginRegistry()
    (variant,) = Catalog(Settings(models={"m": model}), registry).resolve("m").variants
    shown = sketch(variant, registry)
    assert shown.problem is None
    return list(shown.command.argv)


def test_what_each_start_has_of_its_own_is_shown_by_a_word_that_says_so():
    mock = argv_of(engine="mock", parallel=1, options={"seed": 60_001})
    assert mock[mock.index("--port") + 1] == "FREE_PORT"
    assert mock[mock.index("--seed") + 1] == "60001", "no number but the port is touched"
    own = {"engine": "openai", "binary": "server"}
    args = ["--url=http://{host}:{port}/v1", "-n", "1", "--name", "{model}"]
    assert argv_of(**own, args=args) == [
        *("server", "--url=http://127.0.0.1:FREE_PORT/v1", "-n", "1", "--name", "m")
    ]
    fixed = argv_of(**own, args=["--port", "{port}"], url="http://127.0.0.1:9001")
    assert fixed == ["server", "--port", "9001"], "the settings say which"
    assert argv_of(**own, args=["--uds", "{socket}"], listen="unix")[1:] == ["--uds", "/SOCKET"]


@given(sketches())
def test_nothing_differs_from_itself(one):
    assert variant_changes(one, dict(one)) == ()


@given(sketches(), sketches())
def test_every_variant_that_differs_is_told_once_and_no_other(old, new):
    changes = variant_changes(old, new)
    told = [change.id for change in changes]
    assert len(told) == len(set(told))
    assert {c.id for c in changes if c.fate is Fate.ADDED} == new.keys() - old.keys()
    assert {c.id for c in changes if c.fate is Fate.REMOVED} == old.keys() - new.keys()
    for id_ in old.keys() & new.keys():
        assert (id_ in told) == (old[id_] != new[id_])


@given(sketches(), sketches())
def test_what_goes_one_way_comes_the_other(old, new):
    there = {change.id: change for change in variant_changes(old, new)}
    back = {change.id: change for change in variant_changes(new, old)}
    mirrored = {Fate.ADDED: Fate.REMOVED, Fate.REMOVED: Fate.ADDED}
    assert there.keys() == back.keys()
    for id_, change in there.items():
        assert back[id_].fate is mirrored.get(change.fate, change.fate)
        assert (back[id_].before, back[id_].after) == (change.after, change.before)
        assert back[id_].fields == change.fields


@given(sketches(), sketches())
def test_an_engine_runs_on_only_where_its_command_and_its_plugin_are_the_same(old, new):
    for change in variant_changes(old, new):
        if change.fate in {Fate.ADJUSTED, Fate.RESTARTED}:
            before, after = old[change.id], new[change.id]
            same = (
                before.command == after.command
                and before.variant.engine_type == after.variant.engine_type
            )
            assert (change.fate is Fate.ADJUSTED) == same


def test_a_server_that_is_somewhere_else_now_is_attached_to_anew():
    here = Variant(model="m", engine_type="openai", url="http://127.0.0.1:1")
    there = replace(here, url="http://127.0.0.1:2")
    (change,) = variant_changes({here.id: Sketch(here)}, {there.id: Sketch(there)})
    assert (change.fate, change.fields) == (Fate.RESTARTED, ("url",))
    renamed = replace(here, upstream_model="x")
    (change,) = variant_changes({here.id: Sketch(here)}, {here.id: Sketch(renamed)})
    assert (change.fate, change.fields) == (Fate.ADJUSTED, ("upstream_model",))


# -- the scheduler -----------------------------------------------------------------------------

OLD = Variant(model="m", engine_type="mock", context_length=512)
NEW = replace(OLD, context_length=1024)
LIMITS = SchedulingLimits(drain_timeout=60.0)


def ready() -> EngineScheduler:
    """A scheduler whose engine ``OLD`` serves one request."""
    scheduler = EngineScheduler(LIMITS)
    scheduler.handle(Requested(ask(1, OLD)), 0.0)
    scheduler.handle(Ready(OLD.id, 1), 1.0)
    return scheduler


def ask(number: int, variant: Variant) -> QueuedRequest:
    return QueuedRequest(number, (variant,), 0.0, 600.0)


def changed(*present: Variant, restart: bool = True) -> Reconfigured:
    ids = frozenset(variant.id for variant in present) if restart else frozenset()
    return Reconfigured(LIMITS, {variant.id: variant for variant in present}, ids)


def of(kind, actions):
    return [action for action in actions if isinstance(action, kind)]


def test_a_changed_engine_drains_and_its_next_start_is_the_new_variant():
    scheduler = ready()
    actions = scheduler.handle(changed(NEW), 2.0)
    assert not of(Stop, actions)
    assert not of(Evict, actions)
    assert scheduler.try_acquire((NEW,), 2.0) is None
    assert not of(Grant, scheduler.handle(Requested(ask(2, NEW)), 2.0))
    (stop,) = of(Stop, scheduler.handle(Released(1, "ok"), 3.0))
    assert stop.generation == 1
    (start,) = of(Start, scheduler.handle(Stopped(OLD.id, 1), 4.0))
    assert (start.variant, start.generation) == (NEW, 2)
    (grant,) = of(Grant, scheduler.handle(Ready(NEW.id, 2), 5.0))
    assert grant.request.id == 2


def test_an_engine_that_is_only_adjusted_goes_on_under_its_new_values():
    scheduler = ready()
    assert not of(Stop, scheduler.handle(changed(NEW, restart=False), 2.0))
    (view,) = scheduler.instances()
    assert (view.state, view.variant, view.in_flight) == (State.READY, NEW, 1)
    assert scheduler.try_acquire((NEW,), 2.0) is not None


def test_one_that_is_taken_out_is_gone_once_it_has_drained_and_may_come_back():
    scheduler = ready()
    scheduler.handle(changed(), 2.0)
    assert [view.state for view in scheduler.instances()] == [State.DRAINING]
    scheduler.handle(Released(1, "ok"), 3.0)
    scheduler.handle(Stopped(OLD.id, 1), 4.0)
    assert scheduler.instances() == []
    scheduler.handle(changed(NEW), 5.0)
    (start,) = of(Start, scheduler.handle(Requested(ask(2, NEW)), 6.0))
    assert (start.variant, start.generation) == (NEW, 2)


def test_who_waits_for_what_is_taken_out_gets_an_error_unless_something_else_would_do():
    scheduler = EngineScheduler(LIMITS)
    other = replace(OLD, name="other")
    scheduler.handle(Requested(ask(1, OLD)), 0.0)
    scheduler.handle(Requested(QueuedRequest(2, (OLD, other), 0.0, 600.0)), 0.0)
    actions = scheduler.handle(changed(other), 1.0)
    (reject,) = of(Reject, actions)
    assert reject.request.id == 1
    assert isinstance(reject.error, ModelNotFound)
    (start,) = of(Start, scheduler.handle(Stopped(OLD.id, 1), 2.0))
    assert start.variant == other


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["old", "new", "gone", "release", "time"]), max_size=12))
def test_however_often_it_changes_the_next_request_is_served_by_what_is_there_last(steps):
    scheduler, present, now, running = ready(), OLD, 2.0, {1: OLD}
    out = []
    for step in [*steps, "new", "release"]:
        now += 1.0
        if step in {"old", "new", "gone"}:
            wanted = {"old": OLD, "new": NEW, "gone": None}[step]
            differs = wanted is not None and present is not None and wanted != present
            both = () if wanted is None else (wanted,)
            out += scheduler.handle(changed(*both, restart=differs), now)
            present = wanted
        elif step == "release":
            out += scheduler.handle(Released(1, "ok"), now)
        else:
            now += 100.0
        while out:
            action = out.pop(0)
            if isinstance(action, Start):
                assert not running, "two processes of one variant"
                running[action.generation] = action.variant
                out += scheduler.handle(Ready(action.instance, action.generation), now)
            elif isinstance(action, Stop):
                running.pop(action.generation)
                out += scheduler.handle(Stopped(action.instance, action.generation), now)
            elif isinstance(action, Grant):
                assert running[action.generation] == present
    last = QueuedRequest(9, (NEW,), now, now + 600.0)
    starts = of(Start, scheduler.handle(Requested(last), now))
    assert [start.variant for start in starts] == ([] if running else [NEW])
    assert all(variant == NEW for variant in running.values())
