"""Tables as Markdown, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

__all__ = ["spread", "table"]


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table."""
    print(f"\n{title}")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def spread(values: Sequence[float], digits: int = 1) -> tuple[str, str, str]:
    """Median, smallest and largest."""
    return tuple(f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))  # type: ignore[return-value]  # three of them
