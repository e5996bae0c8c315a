"""Rows and columns on a terminal, and numbers as people write them. Pure: values in, text out.

Knows: widths, colours, units. Does not know: where a row comes from. Whatever is shown may come from an engine or a
file, so characters that a terminal would obey are not passed on.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["duration", "plain", "size", "table"]

NOTHING = "-"


def table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str | None] = ()
) -> str:
    """Lines with columns as wide as they need to be; ``colours``: one a row."""
    cells = [list(titles), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    shades = [None, *colours, *[None] * (len(rows) - len(colours))]
    return "\n".join(
        click.style(line, fg=shade) if shade else line
        for line, shade in zip(lines, shades, strict=True)
    )


def plain(text: str) -> str:
    """``text`` without control characters, each shown as what it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float | None) -> str:
    """``4.2s``, ``12m03s``, ``3h20m``; ``-`` for None."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


def size(count: int) -> str:
    """Bytes as ``512B``, ``1.5GiB``."""
    if count < 1024:
        return f"{count}B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f}{unit}"
    return f"{value / 1024:.1f}TiB"
