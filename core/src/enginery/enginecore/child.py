"""The core's process, seen by whoever started it: start, the socket, its last lines, its end.

Knows: that the child is a new Python in a session of its own, that it inherits one end of a socketpair, and how it is
ended with all its descendants. Does not know: frames and requests. A new program is started, never a copy of ours:
a fork of a process with threads may hang in any lock that one of them held.

The end of the socket's stream is the first sign of death, a millisecond after the fact; the exit status follows. What
the child prints comes through a second socketpair, read by a thread of its own, for a full pipe would stop the child.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress

from enginery.errors import EngineDeadError, EngineLeaked, EngineStartFailed

__all__ = ["CoreChild"]

TAIL = 50
"""Lines of output that are kept."""

LEAVE = 1.0
"""Seconds from the end of the stream in which a child may end by itself."""

DIE = 10.0
"""Seconds that a killed process may take to be gone."""

log = logging.getLogger("enginery.engine.core")


class _Printed(threading.Thread):
    """Reads what the child prints: the log gets every line, the last ones are kept."""

    def __init__(self, source: socket.socket) -> None:
        super().__init__(name="enginery-core-output", daemon=True)
        self.lines: deque[str] = deque(maxlen=TAIL)
        self._source = source

    def run(self) -> None:
        rest = b""
        with suppress(OSError):  # closed from our side
            while data := self._source.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                rest = rest[-65536:]
                for line in lines:
                    self._keep(line)
        if rest:
            self._keep(rest)

    def _keep(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self.lines.append(text)
        log.warning("%s", text)


class CoreChild:
    """One child. `end` may be called from any thread, any number of times; everything else by the owner.

    Raises `EngineStartFailed` when it cannot be started.
    """

    def __init__(self) -> None:
        self.returncode: int | None = None
        """As `subprocess` has it: negative is a signal's number; None while it lives, or unknown."""
        self.killed = False
        """True when we had to kill it."""
        self._owner = os.getpid()
        self._ending = threading.Lock()
        self._over = False
        self.socket, theirs = socket.socketpair()
        self._output, printed = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "enginery.enginecore.process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=printed.fileno(),
                stderr=printed.fileno(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            self.socket.close()
            self._output.close()
            raise EngineStartFailed(
                f"cannot start a Python for the engine core: {error}"
            ) from error
        finally:
            theirs.close()
            printed.close()
        self.socket.setblocking(False)
        self._printed = _Printed(self._output)
        self._printed.start()

    @property
    def pid(self) -> int:
        """The child's pid; it is the number of its process group and session, too."""
        return self._process.pid

    def end(self, patience: float = LEAVE) -> None:
        """Wait ``patience`` seconds for its end, then kill it; then every descendant in its group.

        Returns when nothing of it is left but the socket, which stays with whoever waits on it.
        Raises `EngineLeaked` when it does not die of SIGKILL.
        """
        if os.getpid() != self._owner:
            return  # a fork of our program ends, and the child is not its own
        with self._ending:
            if self._over:
                return
            self._over = True
            try:
                if not self._gone(patience):
                    self.killed = True
                    self._signal(signal.SIGKILL)
                    if not self._gone(DIE):
                        raise EngineLeaked(f"the engine core (pid {self.pid}) survives SIGKILL")
                # not reaped yet, so the number is still its group's and nobody else's
                self._signal(signal.SIGKILL)
                self.returncode = self._process.wait()
                self._printed.join(LEAVE)  # the last lines; the group is dead, so this is quick
            finally:
                with suppress(OSError):
                    self._output.shutdown(socket.SHUT_RDWR)  # somebody may hold the other end
                # not for ever: it logs, and we may be called by somebody who holds the log's lock
                self._printed.join(LEAVE)
                self._output.close()

    def hang_up(self) -> None:
        """End the conversation: the child sees the end of the stream, and so does a reader here."""
        if os.getpid() == self._owner:  # else it is another process's conversation
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def death(self, why: str, cause: Exception | None = None) -> EngineDeadError:
        """The error that tells of the end; call it after `end`."""
        code = self.returncode
        if self.killed:
            how = "had to be killed"
        elif code is None:
            how = "is gone"
        elif code < 0:
            how = f"was ended by {_signal_name(-code)}"
        else:
            how = f"ended with exit code {code}"
        said = f": {cause}" if cause is not None else ""
        error = EngineDeadError(
            f"the engine core (pid {self.pid}) {how} while {why}{said}",
            log_tail=list(self._printed.lines),
        )
        if code is not None and not self.killed:
            error.exit_code, error.signal = (code, None) if code >= 0 else (None, -code)
        error.__cause__ = cause
        return error

    def not_started(self, cause: Exception | None) -> EngineStartFailed:
        """The same for an end before the model was loaded."""
        dead = self.death("starting", cause)
        error = EngineStartFailed(dead.message)  # the message has the lines already
        error.log_tail = tuple(self._printed.lines)
        error.__cause__ = cause
        return error

    def _gone(self, patience: float) -> bool:
        """Wait for the exit without reaping."""
        deadline = time.monotonic() + patience
        pause = 0.0005
        while True:
            try:
                flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
                if os.waitid(os.P_PID, self.pid, flags) is not None:
                    return True
            except ChildProcessError:
                return True  # somebody waits for all children of this program
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, 0.02)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
