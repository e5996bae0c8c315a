"""Which swaps are under way, told from the states that engines go through. Pure; decides nothing.

Knows: a swap begins when an engine's turn ends for another's sake, and is over when that other one serves, or
cannot. Does not know: why the scheduler wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from enginery.engine.seam import SWAP_TO, Moved
from enginery.lifecycle import State

__all__ = ["SwapNews", "SwapWatch"]

_GOING = frozenset({State.DRAINING, State.STOPPING})


@dataclass(frozen=True, slots=True)
class SwapNews:
    """``swap.begun`` or ``swap.finished``: of which variant, and what else there is to say."""

    type: str
    model: str
    variant: str
    data: dict[str, Any]


@dataclass(slots=True)
class _Swap:
    began: float
    victims: list[str] = field(default_factory=list)


class SwapWatch:
    """Pairs those that make room with the one for which they do."""

    def __init__(self) -> None:
        self._open: dict[str, _Swap] = {}

    def moved(self, moved: Moved, now: float) -> list[SwapNews]:
        """What this change of state means for swaps."""
        one, news = moved.variant, []
        if moved.reason.startswith(SWAP_TO) and moved.after in _GOING:
            target = moved.reason.removeprefix(SWAP_TO)
            swap = self._open.get(target)
            if swap is None:
                swap = self._open[target] = _Swap(now)
                news.append(_news("swap.begun", target, victim=one.id))
            if one.id not in swap.victims:
                swap.victims.append(one.id)
        elif one.id in self._open and moved.after is not State.STARTING:
            outcome = {State.READY: "ok", State.FAILED: "failed", State.WAKING: ""}.get(
                moved.after, "stopped"
            )
            if outcome:
                swap = self._open.pop(one.id)
                told = {"outcome": outcome, "seconds": now - swap.began, "victims": swap.victims}
                news.append(_news("swap.finished", one.id, **told))
        return news


def _news(type_: str, variant: str, **data: Any) -> SwapNews:
    return SwapNews(type_, variant.rpartition("/")[0], variant, data)
