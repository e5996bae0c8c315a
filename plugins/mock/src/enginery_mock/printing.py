"""What the mock prints: one line at a time, flushed, with its name in front.

Knows: stdout and stderr. Does not know: what is said or when.
"""

from __future__ import annotations

import sys

__all__ = ["complain", "say"]


def say(text: str) -> None:
    """One line on stdout."""
    print(f"enginery-mock: {text}", flush=True)  # noqa: T201  # a program


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"enginery-mock: {text}", file=sys.stderr, flush=True)  # noqa: T201  # a program
