"""Engines that are small Python scripts, for tests of processes; and what is alive of us."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import psutil

from enginery.engine.process import EngineProcess

__all__ = [
    "FAMILY",
    "PYTHON",
    "SLEEPER",
    "STUBBORN",
    "UP",
    "descriptors",
    "is_alive",
    "our_children",
    "python",
    "sleeper",
]

PYTHON = [sys.executable, "-I", "-S"]
SLEEPER = ["-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"no\\n"))  # a second print might meet the first
print("up", flush=True)
while True:
    time.sleep(600)
"""
FAMILY = """
import os, sys, time
def grandchild():  # double fork and a session of its own: no parent, no group leads to it
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            with open(sys.argv[1] + ".new", "w") as out:
                out.write(str(os.getpid()))
            os.rename(sys.argv[1] + ".new", sys.argv[1])
            time.sleep(600)
        os._exit(0)
    os.wait()
grandchild()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
"""
UP = 'print("up", flush=True)\n'


def python(script: str, *args: object, **options: object) -> EngineProcess:
    words = ["-I", "-S", "-c", dedent(script), *map(str, args)]
    return EngineProcess(sys.executable, words, name="fake", **options)


def sleeper(**options: object) -> EngineProcess:
    return EngineProcess(sys.executable, SLEEPER, name="fake", **options)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def our_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
