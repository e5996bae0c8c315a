"""The kit's two C programs: a fake engine and a load client, built when they are first needed.

Knows: the compiler and where builds are kept. Does not know: what is measured with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ["CACHE", "FAKE_ENGINE", "KEY", "LOAD", "NotRun", "build", "load", "pinned"]

KIT = Path(__file__).with_name("kit")
CACHE = Path(__file__).parents[1] / ".bench"
"""Builds and logs of the targets; git ignores it."""

FAKE_ENGINE, LOAD = "fake_engine", "load"
KEY = "sk-" + 4 * "0123456789abcdef"
"""Sent with every request: LiteLLM does not start without one, the others do not look."""

Numbers = dict[str, float]


class NotRun(Exception):
    """A benchmark cannot be run on this machine; the message is the reason."""


def build(name: str) -> Path:
    """The program ``name``, built once for each version of its source.

    Raises:
        NotRun: there is no C compiler, or it refuses the source.
    """
    source = KIT / f"{name}.c"
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    program = CACHE / f"{name}-{version}"
    if program.exists():
        return program
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NotRun("no C compiler: install cc (Debian: apt install gcc libc6-dev)")
    CACHE.mkdir(exist_ok=True)
    part = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, "-O2", "-o", str(part), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NotRun(f"{compiler} does not build {source.name}: {done.stderr.strip()[:500]}")
    part.replace(program)
    return program


def load(address: str, *words: str, cpus: str | None = None) -> Numbers:
    """Run the load client against ``address``; what its one line of JSON says.

    Raises:
        RuntimeError: the address does not answer.
    """
    argv = [*pinned(cpus), str(build(LOAD)), "-a", address, "-K", KEY, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    if done.stderr:
        print(f"  {address}: {done.stderr.strip()}")
    numbers: Numbers = json.loads(done.stdout)
    return numbers


def pinned(cpus: str | None) -> list[str]:
    """The words that keep a program on these CPUs; none where ``taskset`` is missing."""
    return ["taskset", "-c", cpus] if cpus is not None and shutil.which("taskset") else []
