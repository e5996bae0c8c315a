"""What the scheduler does about servers that somebody else runs. Pure.

Knows: when one is looked at, and what a look means. Does not know: the queue; nor room, of which they need
none. Nothing is started or stopped, so there is no back-off and no quarantine: who wants one that is out
of reach has it looked at.
"""

from __future__ import annotations

from enginery.engine.roster import Instance, Roster
from enginery.engine.seam import Event, Lost, Outcome, Ready, Unhealthy
from enginery.errors import EngineryError, EngineUnreachable
from enginery.lifecycle import State

__all__ = ["released", "told", "wanted"]


def wanted(roster: Roster, one: Instance, now: float) -> None:
    """Somebody waits for ``one``; if it is on its way out, it comes back when that is done."""
    if one.state is State.UNREACHABLE:
        roster.probe(one)
    elif not one.resident:
        roster.bring_up(one, now)


def told(roster: Roster, one: Instance, event: Event, now: float) -> EngineryError | None:
    """What a look found; returns the error for those who wait, if it is lost. Of ours: nothing."""
    if not one.traits.attached:
        return None
    match event, one.state:
        case Ready(), State.UNREACHABLE if one.suspect:
            roster.suspect(one, one.reason)  # its good health proves nothing any more
        case Ready(), State.UNREACHABLE:
            roster.found(one, now)
        case Ready(), State.READY:
            one.probing = False
        case Lost(error=error), State.STARTING | State.READY | State.UNREACHABLE:
            roster.lost(one, error, now)
            return error
        case Unhealthy(), State.READY:
            why = f"{one.variant.id} fails its health check"
            roster.lost(one, EngineUnreachable(why, retry_after=1.0), now)
    return None


def released(roster: Roster, one: Instance | None, outcome: Outcome) -> None:
    """A request to ``one`` ended: if it failed there, that is a reason to look."""
    attached = one is not None and one.traits.attached and one.state is State.READY
    if one is not None and attached and outcome is Outcome.ENGINE_ERROR:
        roster.probe(one)
