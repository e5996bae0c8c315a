"""Noticing that a file was written, by looking at it once a second.

Knows: what a change looks like from outside: another file under the name, another time, another size. Does not know:
what is in it. Looking needs no library and sees editors that write beside and rename, and mounted configuration maps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

__all__ = ["file_changes"]

EVERY = 1.0


async def file_changes(file: Path, every: float = EVERY) -> AsyncGenerator[None]:
    """Yields each time ``file`` has changed since the last time and then kept still for one look.

    Args:
        file: it may be gone for a while.
        every: seconds between two looks.
    """
    known = _look(file)
    while True:
        await asyncio.sleep(every)
        now = _look(file)
        if now in {known, None}:
            continue
        await asyncio.sleep(every)
        if _look(file) == now:  # nobody is writing any more
            known = now
            yield


def _look(file: Path) -> tuple[int, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
