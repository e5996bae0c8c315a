"""The states of one engine instance and the only ways between them, as a table.

An instance is born ``stopped``. Everything that happens to it is a `Trigger`; `advance` looks the
pair up and refuses what is not in the table. The scheduler owns every instance's state and is the
only caller of `advance`; the diagram in docs/operations.md and the tests read this same table.

    stopped, failed ─start→ starting ─ready→ ready ─drain→ draining ─stop→ stopping ─gone→ stopped
    draining ─sleep→ going_to_sleep ─slept→ asleep ─wake→ waking ─woke→ ready
    starting, going_to_sleep, asleep, waking ─stop→ stopping
    starting, ready, draining, going_to_sleep, asleep, waking ─exit→ failed
    starting, ready, draining, going_to_sleep, asleep, waking, stopping ─survived→ leaked
    leaked ─gone→ stopped
    starting, ready ─lost→ unreachable ─found→ ready
    unreachable ─stop→ stopping
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["STATES", "TRANSITIONS", "IllegalTransition", "State", "StateInfo", "Trigger", "advance"]


class State(StrEnum):
    """Where an instance is in its life; `STATES` says what each means to whom."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GOING_TO_SLEEP = "going_to_sleep"
    ASLEEP = "asleep"
    WAKING = "waking"
    STOPPING = "stopping"
    FAILED = "failed"
    LEAKED = "leaked"
    UNREACHABLE = "unreachable"


class Trigger(StrEnum):
    """What happens to an instance: ordered by the scheduler, or reported to it."""

    START = "start"
    READY = "ready"
    DRAIN = "drain"
    STOP = "stop"
    GONE = "gone"
    EXIT = "exit"
    SURVIVED = "survived"
    SLEEP = "sleep"
    SLEPT = "slept"
    WAKE = "wake"
    WOKE = "woke"
    LOST = "lost"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class StateInfo:
    """One row of the table of states.

    Args:
        means: one clause, for people.
        models: the word in ``/v1/models``.
        process: the word of `EngineProcess.get_status`.
        resident: True while it takes memory on a device.
    """

    means: str
    models: str
    process: str
    resident: bool


STATES: Mapping[State, StateInfo] = {
    State.STOPPED: StateInfo("no process", "unloaded", "stopped", resident=False),
    State.STARTING: StateInfo("process up, not ready", "loading", "running", resident=True),
    State.READY: StateInfo("serves", "loaded", "running", resident=True),
    State.DRAINING: StateInfo(
        "no new leases; ends in stopping or going_to_sleep", "loaded", "running", resident=True
    ),
    State.GOING_TO_SLEEP: StateInfo("giving memory back", "sleeping", "running", resident=True),
    State.ASLEEP: StateInfo(
        "memory given back, process alive", "sleeping", "running", resident=True
    ),
    State.WAKING: StateInfo("taking memory again", "sleeping", "running", resident=True),
    State.STOPPING: StateInfo("stop plan under way", "unloading", "running", resident=True),
    State.FAILED: StateInfo("start failed, or crashed", "failed", "crashed", resident=False),
    State.LEAKED: StateInfo(
        "would not die; its device takes no new engine", "failed", "crashed", resident=True
    ),
    State.UNREACHABLE: StateInfo(
        "attached server does not answer", "failed", "crashed", resident=False
    ),
}

TRANSITIONS: Mapping[tuple[State, Trigger], State] = {
    (State.STOPPED, Trigger.START): State.STARTING,
    (State.FAILED, Trigger.START): State.STARTING,
    (State.STARTING, Trigger.READY): State.READY,
    (State.STARTING, Trigger.STOP): State.STOPPING,
    (State.STARTING, Trigger.EXIT): State.FAILED,
    (State.STARTING, Trigger.SURVIVED): State.LEAKED,
    (State.READY, Trigger.DRAIN): State.DRAINING,
    (State.READY, Trigger.SURVIVED): State.LEAKED,
    (State.DRAINING, Trigger.SURVIVED): State.LEAKED,
    (State.READY, Trigger.EXIT): State.FAILED,
    (State.DRAINING, Trigger.STOP): State.STOPPING,
    (State.DRAINING, Trigger.SLEEP): State.GOING_TO_SLEEP,
    (State.DRAINING, Trigger.EXIT): State.FAILED,
    (State.GOING_TO_SLEEP, Trigger.SLEPT): State.ASLEEP,
    (State.GOING_TO_SLEEP, Trigger.STOP): State.STOPPING,
    (State.GOING_TO_SLEEP, Trigger.EXIT): State.FAILED,
    (State.ASLEEP, Trigger.WAKE): State.WAKING,
    (State.ASLEEP, Trigger.STOP): State.STOPPING,
    (State.ASLEEP, Trigger.EXIT): State.FAILED,
    (State.WAKING, Trigger.WOKE): State.READY,
    (State.WAKING, Trigger.STOP): State.STOPPING,
    (State.WAKING, Trigger.EXIT): State.FAILED,
    (State.STOPPING, Trigger.GONE): State.STOPPED,
    (State.GOING_TO_SLEEP, Trigger.SURVIVED): State.LEAKED,
    (State.ASLEEP, Trigger.SURVIVED): State.LEAKED,
    (State.WAKING, Trigger.SURVIVED): State.LEAKED,
    (State.STOPPING, Trigger.SURVIVED): State.LEAKED,
    (State.LEAKED, Trigger.GONE): State.STOPPED,
    (State.STARTING, Trigger.LOST): State.UNREACHABLE,
    (State.READY, Trigger.LOST): State.UNREACHABLE,
    (State.UNREACHABLE, Trigger.FOUND): State.READY,
    (State.UNREACHABLE, Trigger.STOP): State.STOPPING,
}


class IllegalTransition(Exception):
    """A trigger came in a state that does not know it: a defect of ours, never the user's."""


def advance(state: State, trigger: Trigger) -> State:
    """The state that follows.

    Raises:
        IllegalTransition: the table has no such row.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise IllegalTransition(f"{trigger} in state {state}") from None
