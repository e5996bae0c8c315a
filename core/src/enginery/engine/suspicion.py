"""An engine that fell silent: what follows from the suspicion, and from one token or none. Pure.

Knows: that good health proves nothing here, and that a server which is not ours cannot be restarted.
Does not know: who noticed, or how a token is asked for (`examination`).

    ready ─Suspected→ ready, no new leases ─Cleared→ ready
                                           ─Condemned→ draining, stopping, and started again when wanted
    attached: ready ─Suspected→ ready, no new leases ─Condemned→ unreachable, until a token comes
"""

from __future__ import annotations

from enginery.engine.roster import Instance, Roster
from enginery.engine.seam import Cleared, Condemned, Event, Suspected
from enginery.errors import EngineryError, EngineUnreachable
from enginery.lifecycle import State

__all__ = ["told"]

REASON = "suspect: it fell silent and is asked for one token"
RETRY_AFTER = 1.0


def told(roster: Roster, one: Instance, event: Event, now: float) -> EngineryError | None:
    """What ``event`` means for ``one``; the error for those who wait for it, where they wait in vain."""
    match event, one.state:
        case Suspected(), State.READY:
            roster.suspect(one, REASON)
        case Cleared(), State.READY | State.UNREACHABLE if one.suspect:
            roster.clear(one, now)
        case Condemned(error=error), State.READY | State.UNREACHABLE if one.suspect:
            one.examined = False
            if one.traits.attached:
                gone = EngineUnreachable(error.message, retry_after=RETRY_AFTER)
                roster.lost(one, gone, now)
                return gone
            one.error = error
            roster.drain(one, now, f"stalled: {error.message.partition(chr(10))[0]}")
    return None
