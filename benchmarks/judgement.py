"""Whether measured numbers keep the bounds that were set for them. Pure.

Knows: ratios and bounds. Does not know: how anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Bound", "verdicts"]


@dataclass(frozen=True)
class Bound:
    """A ratio of one row's number to another row's, and its limit.

    ``gate`` fails the benchmark when it is missed; without it the bound is a goal, only reported.
    """

    what: str
    row: str
    column: str
    to: str
    at_most: float | None = None
    at_least: float | None = None
    gate: bool = False

    def met(self, ratio: float) -> bool:
        """True when the ratio is within the limit."""
        return (self.at_most is None or ratio <= self.at_most) and (
            self.at_least is None or ratio >= self.at_least
        )

    @property
    def limit(self) -> str:
        """``≤ 1.4`` or ``≥ 200``."""
        return f"≤ {self.at_most:.3g}" if self.at_most is not None else f"≥ {self.at_least:.3g}"


def verdicts(
    bounds: Iterable[Bound], results: Mapping[str, Mapping[str, float]]
) -> tuple[list[list[str]], bool]:
    """A table row for each bound, and whether every gate that could be measured holds."""
    rows, held = [], True
    for bound in bounds:
        kind = "gate" if bound.gate else "goal"
        ours = results.get(bound.row, {}).get(bound.column)
        theirs = results.get(bound.to, {}).get(bound.column)
        if ours is None or not theirs:
            ratio, word = "–", "not measured"
        else:
            met = bound.met(ours / theirs)
            ratio = f"{ours / theirs:.2f}"
            word = "yes" if met else "NO"
            held = held and (met or not bound.gate)
        rows.append([bound.what, bound.row, bound.to, ratio, bound.limit, kind, word])
    return rows, held
