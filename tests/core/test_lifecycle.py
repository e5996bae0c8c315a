"""The table of states: closed, connected, and the same as its drawing."""

from __future__ import annotations

import re

import pytest

from enginery import lifecycle
from enginery.lifecycle import STATES, TRANSITIONS, IllegalTransition, State, Trigger, advance

PAIRS = [(state, trigger) for state in State for trigger in Trigger]


def test_every_state_has_a_row_and_every_trigger_is_used() -> None:
    assert set(STATES) == set(State)
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)


@pytest.mark.parametrize(("state", "trigger"), PAIRS)
def test_a_pair_is_in_the_table_or_refused(state, trigger) -> None:
    if (state, trigger) in TRANSITIONS:
        assert advance(state, trigger) is TRANSITIONS[state, trigger]
    else:
        with pytest.raises(IllegalTransition, match=f"{trigger} in state {state}"):
            advance(state, trigger)


def reachable(start: State) -> set[State]:
    found, new = {start}, {start}
    while new:
        new = {after for (before, _), after in TRANSITIONS.items() if before in new} - found
        found |= new
    return found


def test_every_state_is_reached_from_birth() -> None:
    assert reachable(State.STOPPED) == set(State)


@pytest.mark.parametrize("state", State)
def test_no_state_is_a_trap_every_instance_can_serve_again(state) -> None:
    assert State.READY in reachable(state)


@pytest.mark.parametrize("state", State)
def test_whatever_has_a_process_can_lose_it(state) -> None:
    """Its end, and what it left behind, are never illegal news while a process may be alive."""
    if STATES[state].process == "running":
        after = {trigger for before, trigger in TRANSITIONS if before is state}
        assert after & {Trigger.EXIT, Trigger.GONE}
        assert Trigger.SURVIVED in after


def test_words_for_people_and_programs_are_from_closed_sets() -> None:
    assert {info.models for info in STATES.values()} == {
        *("unloaded", "loading", "loaded", "sleeping", "unloading", "failed"),
    }
    assert {info.process for info in STATES.values()} == {"stopped", "running", "crashed"}
    assert all(info.means for info in STATES.values())
    assert {s for s, info in STATES.items() if info.resident} == set(State) - {
        State.STOPPED,
        State.FAILED,
        State.UNREACHABLE,
    }


def test_the_drawing_in_the_docstring_is_the_whole_table() -> None:
    drawing = [line.strip() for line in (lifecycle.__doc__ or "").splitlines() if "→" in line]
    assert drawing
    arrows = []
    for line in drawing:
        first, *rest = re.split(r" ─(\w+)→ ", line)
        befores = first.split(", ")
        for trigger, after in zip(rest[::2], rest[1::2], strict=True):
            arrows += [(before, trigger, after) for before in befores]
            befores = [after]
    table = {(str(before), str(t), str(after)) for (before, t), after in TRANSITIONS.items()}
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == table
