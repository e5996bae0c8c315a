"""Which lines of a failed engine's log are shown with its error.

Pure. Knows: that the last lines are what a person looks at first, and that an engine of several processes often says the
reason much earlier, before the tracebacks of those that only heard of it. Does not know: what a reason looks like: that
is the plugin's `Command.cause_hint`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["last_words"]

CAUSES = 3
"""Earlier lines that are shown at most, the latest: the reason, and what others made of it."""


def last_words(lines: Sequence[str], n: int, cause: re.Pattern[str] | None = None) -> list[str]:
    """The last ``n`` lines, from 1; before them those earlier ones that tell the reason, each once.

    Args:
        lines: all that is kept, oldest first.
        n: how many of the last are shown in any case.
        cause: what a line that tells a reason matches; None: nobody knows.
    """
    last = list(lines[-n:])
    if cause is None:
        return last
    told = list(dict.fromkeys(line for line in lines[:-n] if cause.search(line)))[-CAUSES:]
    return [*told, "…", *last] if told else last
