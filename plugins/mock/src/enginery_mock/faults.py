"""How the mock's process misbehaves: children left behind, signals ignored, logs in floods, sudden death.

Knows: processes, signals and file descriptors. Does not know: routes, requests or options' defaults. Each
fault is real: another process sees what it would see of a broken engine. What a child leaves behind goes
by itself after a while, so that no test can litter a machine.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Literal

from enginery_mock.printing import say

__all__ = [
    "TokensToCrash",
    "flood_log",
    "fork_grandchild",
    "hold_port",
    "ignore_signals",
]

GRANDCHILD_LIFE = 600  # seconds
FLOODS_PER_SECOND = 50

_SHORT = b"enginery-mock: flood: layer %d of 1000 is where it was, nothing to see here\n"
FLOOD = b"".join(
    (
        *(_SHORT % number for number in range(1000)),
        b"enginery-mock: flood: 10 %\renginery-mock: flood: 20 %\r\n",
        b"enginery-mock: flood: \x1b[31mred\x1b[0m, a NUL \x00 and no UTF-8 \xff\xfe\n",
        b"enginery-mock: flood: " + b"long " * 40_000 + b"\n",
    )
)
"""Some 280 kB: a thousand short lines, a progress bar, what is no text, and one line of 200 kB."""


def fork_grandchild(kind: Literal["pipes", "setsid"]) -> None:
    """Start a process that does nothing and outlives us; a line on stdout says its id.

    Called before anything else runs or is opened: threads and sockets do not survive a fork well.
    """
    if kind == "pipes":
        child = _sleeper(GRANDCHILD_LIFE)
        say(f"grandchild {child.pid} keeps stdout and stderr open")
        return
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if grandchild := os.fork():
        say(f"grandchild {grandchild} has a session of its own and ignores SIGTERM")
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # only its session is odd: the pipes close when the mock ends
        os.dup2(null, number)
    time.sleep(GRANDCHILD_LIFE)
    os._exit(0)


def hold_port(listener: socket.socket, seconds: float) -> None:
    """Hand the listening socket to a detached process that never accepts; a line says its id.

    Until it ends, the port is taken, and who connects waits for an answer that does not come.
    """
    holder = _sleeper(seconds, listener.fileno())
    port = listener.getsockname()[1]
    say(f"holder {holder.pid} keeps port {port} for {seconds:g} s")


def _sleeper(seconds: float, *keeps: int) -> subprocess.Popen[bytes]:
    """A process that sleeps; with ``keeps`` in its own session, with these descriptors and no pipes."""
    output = subprocess.DEVNULL if keeps else None
    return subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", f"import time; time.sleep({seconds})"),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=keeps,
        start_new_session=bool(keeps),
    )


def ignore_signals() -> None:
    """Ignore every signal that can be ignored; only SIGKILL ends us, and SIGSTOP stops us."""
    # SIGCHLD is ignored by default anyway, and doing it by name would change how children are reaped.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)


def flood_log(rate: int | Literal["max"]) -> None:
    """Write to stdout and stderr in turn, ``rate`` bytes each second, until we end.

    In a thread, so that at ``"max"`` only the pipes and their reader bound it; it stops for as long as
    nobody reads.
    """
    pace = None if rate == "max" else rate
    threading.Thread(target=_flood, args=(pace,), name="flood-log", daemon=True).start()


def _flood(rate: int | None) -> None:
    text, at, output = memoryview(FLOOD), 0, sys.stdout.fileno()
    at_once = len(text) if rate is None else max(1, rate // FLOODS_PER_SECOND)
    due = time.monotonic()
    while True:
        try:
            written = os.write(output, text[at : at + at_once])
        except OSError:  # nobody is left who could read
            return
        at += written
        if at == len(text):
            at, output = 0, sys.stdout.fileno() + sys.stderr.fileno() - output
        if rate is not None:
            due += written / rate
            time.sleep(max(0.0, due - time.monotonic()))


class TokensToCrash:
    """Called with each token that is generated; at the last one the process dies of SIGSEGV.

    Args:
        tokens: how many it survives, over all requests.
    """

    def __init__(self, tokens: int) -> None:
        self._left = tokens

    def __call__(self) -> None:
        """One more token; does not return from the last."""
        self._left -= 1
        if self._left <= 0:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would be of no use
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            signal.raise_signal(signal.SIGSEGV)
