"""What processes cost: CPU time and memory of a process and all its descendants. Linux only.

Knows: ``/proc``. Does not know: what the processes do.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from enginery.engine.guardian import descendants

__all__ = ["busy_cpus", "cpu_seconds", "pss", "settle"]

QUIET = 0.25
"""Busy CPUs by others below which a machine counts as quiet."""


def _family(pid: int, without: Path | None) -> list[int]:
    return [
        member
        for member in (pid, *descendants(pid))
        if without is None or _program(member) != str(without)
    ]


def _program(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def cpu_seconds(pid: int, without: Path | None = None) -> float:
    """Seconds on a CPU of every thread of the family so far, exact to the nanosecond.

    ``without`` is a program whose processes do not count: an engine that the family started.
    """
    spent = 0
    for member in _family(pid, without):
        for thread in Path(f"/proc/{member}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                spent += int(thread.read_text().split()[0])
    return spent / 1e9


def pss(pid: int, without: Path | None = None) -> int:
    """Bytes of the family, each shared page divided among those who share it."""
    total = 0
    for member in _family(pid, without):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def busy_cpus() -> float:
    """CPU seconds that the whole machine has spent since it started."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def settle(limit: float) -> None:
    """Wait until the machine is quiet, at most ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = busy_cpus()
        time.sleep(0.1)
        if busy_cpus() - before < 0.1 * QUIET:
            return
