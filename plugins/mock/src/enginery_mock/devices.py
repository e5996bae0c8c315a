"""Pretended device memory: a directory in which running mocks write down what they use.

Knows: who uses how many bytes of which device, also after a ``kill -9``. Does not know: how much a device
has, or who asks. The environment variable ``ENGINERY_MOCK_DEVICES`` names the directory.

Each process that uses memory has two files. ``NAME.lock`` is locked (flock) for as long as the process
lives: the kernel takes the lock away before anybody can see the exit, so no process id is trusted, no
zombie counts as alive, and a child that it leaves behind holds nothing. ``NAME.json`` says how much, and
how long after the end the memory is still in use; it is replaced as a whole. A reader that first finds the
lock free writes the time into the lock file, and from then on the delay is counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ["Ledger", "used"]


def used(directory: str | os.PathLike[str]) -> dict[str, int]:
    """Bytes in use on each device now; a device that nobody uses is absent.

    For tests, and for launchers that pretend devices. Any process may call it at any time; it clears away
    the files of those that are gone, so a delay after an end begins with the first call after it.
    """
    total: dict[str, int] = {}
    for path in Path(directory).glob("*.json"):
        with suppress(FileNotFoundError):  # another reader cleared it away
            entry = json.loads(path.read_text())
            since_end = _since_end(path.with_suffix(".lock"))
            if since_end is not None and since_end * 1000 >= entry["late_ms"]:
                path.unlink()
                path.with_suffix(".lock").unlink()
                continue
            for device, size in entry["memory"].items():
                total[device] = total.get(device, 0) + size
    return {device: size for device, size in total.items() if size}


class Ledger:
    """What this process uses.

    Args:
        directory: where to write it, made if absent; None writes nothing.
        late_ms: how long after this process's end its memory is still in use, in milliseconds.
    """

    def __init__(self, directory: str | None, late_ms: float = 0.0) -> None:
        self._late_ms = late_ms
        self._path: Path | None = None
        self._lock: IO[str] | None = None
        if directory is not None:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._path = Path(directory, f"{os.getpid()}-{time.monotonic_ns()}.json")

    def hold(self, memory: Mapping[str, int]) -> None:
        """From now on this process uses just these bytes."""
        if self._path is None:
            return
        if self._lock is None:
            self._lock = self._path.with_suffix(".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        entry = {"pid": os.getpid(), "late_ms": self._late_ms, "memory": dict(memory)}
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(entry))
        fresh.replace(self._path)

    def close(self) -> None:
        """Let go, as the end of the process does."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _since_end(lock: Path) -> float | None:
    """Seconds since somebody first saw that the owner of ``lock`` is gone; None while it lives."""
    with lock.open("r+") as file:
        try:
            # Shared: two readers at once must not take each other for the owner.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        now = time.monotonic()  # the same clock in every process of a machine
        noted = file.read()
        if not noted:
            file.write(f"{now:020.6f}")  # of one width, so that two at once write over each other
            return 0.0
        return now - float(noted)
