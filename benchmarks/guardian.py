"""What a guardian costs: milliseconds at each start and stop, memory for as long as the engine runs."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.tables import spread, table
from enginery.engine.guardian import descendants
from enginery.engine.process import EngineProcess

ROUNDS = 20
PROGRAM = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


def _pss(pid: int) -> float:
    """MiB of a process, shared pages divided among those who share them; needs Linux."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no Pss of {pid}")


async def _guarded() -> tuple[float, float, float]:
    process = EngineProcess(PROGRAM[0], PROGRAM[1:])
    began = time.perf_counter()
    await process.start()
    started = time.perf_counter()
    engine = process.get_pid()
    assert engine is not None
    # everything below us, but for the engine itself, is there because of the guardian
    guardians = [pid for pid in descendants(_me()) if pid != engine]
    memory = sum(_pss(pid) for pid in guardians)
    stopping = time.perf_counter()
    await process.stop()
    return 1000 * (started - began), 1000 * (time.perf_counter() - stopping), memory


def _me() -> int:
    import os

    return os.getpid()


def _bare() -> tuple[float, float]:
    began = time.perf_counter()
    process = subprocess.Popen(PROGRAM)
    started = time.perf_counter()
    process.terminate()
    process.wait()
    return 1000 * (started - began), 1000 * (time.perf_counter() - started)


async def main() -> bool:
    """Print the table; there is no gate."""
    bare: list[tuple[float, float]] = []
    guarded: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        for name in random.sample(["bare", "guarded"], 2):
            if name == "bare":
                bare.append(_bare())
            else:
                guarded.append(await _guarded())
    rows = [
        ("start, bare (ms)", *spread([start for start, _ in bare])),
        ("start, guarded (ms)", *spread([start for start, _, _ in guarded])),
        ("stop, bare (ms)", *spread([stop for _, stop in bare])),
        ("stop, guarded (ms)", *spread([stop for _, stop, _ in guarded])),
        ("memory of the guardians (MiB, PSS)", *spread([memory for _, _, memory in guarded])),
    ]
    table(f"guardian, {ROUNDS} each", ("", "median", "min", "max"), rows)
    added = median(start for start, _, _ in guarded) - median(start for start, _ in bare)
    print(f"a guarded engine starts {added:.1f} ms later")
    return True
