"""Backends for engine cores in children; the child finds this module where its parent found it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from enginery.enginecore import GeneratorBackend, NativeBackend
from enginery.enginecore.mock import create_backend


def talkative(lines: int = 3, **mock) -> NativeBackend:
    """Prints while it loads."""
    for number in range(lines):
        print(f"line {number} of the backend", file=sys.stderr)
    return create_backend(**mock)


def flooding(**mock) -> NativeBackend:
    """Prints more than any pipe holds."""
    print("x" * 5_000_000, flush=True)
    return create_backend(**mock)


def broken() -> NativeBackend:
    raise ValueError("the weights are for another model")


def leaving() -> NativeBackend:
    print("no licence", file=sys.stderr)
    sys.stderr.flush()
    os._exit(9)


def endless() -> NativeBackend:
    """Loads for ever."""
    while True:
        time.sleep(3600)


def with_child(pid_file: str, **mock) -> NativeBackend:
    """Starts a program of its own, as engines with workers do."""
    pid = os.posix_spawnp("sleep", ["sleep", "3600"], os.environ)
    Path(pid_file).write_text(str(pid))
    return create_backend(**mock)


class _Marking(NativeBackend):
    done: Path

    def step(self, timeout: float):
        outputs = super().step(timeout)
        if any(output.finish_reason is not None for output in outputs):
            self.done.write_text("done")
        return outputs


def marking(done_file: str, **mock) -> NativeBackend:
    """Writes a file when a request ends."""
    backend = create_backend(**mock)
    backend.__class__ = _Marking
    backend.done = Path(done_file)
    return backend


def words() -> GeneratorBackend:
    """The easy door: it can do nothing but talk."""
    return GeneratorBackend(lambda request: iter((request.prompt or "").split()))


def with_options(note: str, **mock) -> NativeBackend:
    """Has an option that is nobody else's business."""
    assert note
    return create_backend(**mock)
