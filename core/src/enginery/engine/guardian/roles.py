"""The outer and the inner guardian, and what both do. The package's docstring has the theory."""

# contextlib would be one more import
# ruff: noqa: SIM105

import os
import select
import signal
import sys
from time import monotonic

from . import STOP_ARGV_PATIENCE
from .family import children, descendants, pidfd, tidies_up
from .messages import send, split_messages

__all__ = ["main"]

KILL_EVERY = 0.02  # descendants may fork while they are killed, so killing is repeated
KILL_AT_LEAST_EVERY = 0.5  # what sits in the kernel for hours must not cost a processor
TIDY_PATIENCE = 1.2  # seconds for those who tidy up behind the dead; 20 ms where nobody else wants the processor
INNER_PATIENCE = 0.8  # seconds beyond the grace until the outer guardian does the inner one's work
LOOK_EVERY = 0.5  # where no pidfd tells that a parent died
NEVER = float("inf")

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return  # elsewhere the process group is all there is
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _let_go_of_output() -> None:
    """The engine's pipes must close when it ends, not when we do."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def _first_message(fd: int, manager: int) -> list[str]:
    """The manager's order; empty when it is gone. ``manager`` is its pidfd, or -1."""
    poll, buffer = select.poll(), bytearray()
    for watched in {fd, manager} - {-1}:
        poll.register(watched, select.POLLIN)
    while not (messages := split_messages(buffer)):
        if [ready for ready, _ in poll.poll()] != [
            fd
        ]:  # it died, but a fork of it holds the socket
            return []
        data = os.read(fd, 65536)
        if not data:
            return []
        buffer += data
    return messages[0]


class Guardian:
    """What both do: watch until there is reason to end, end what is below, reap.

    Args:
        fd: the socket to the manager.
        parent: the pid of whoever started this process.
        watched: pidfds of those whose death ends the engine; -1 is one that cannot be had.
        order: the manager's.
    """

    def __init__(self, fd: int, parent: int, watched: list[int], order: list[str]) -> None:
        self.fd = fd
        self.parent = parent
        self.cwd, grace, stops, variables, *words = order
        self.grace = float(grace)
        first, second = int(stops), int(stops) + int(variables)
        self.stop_argv, self.argv = words[:first], words[second:]
        # the engine's, not ours: an LD_LIBRARY_PATH for it must not break its guardian
        self.env = dict(word.split("=", 1) for word in words[first:second])
        self.engine = 0  # its pid while it may live, as far as this guardian knows
        self.charge_gone = False  # the charge: the inner guardian, or the engine
        self.childless = False
        self.pause = KILL_EVERY
        self.kill_at = NEVER
        self.spare_until = 0.0
        self.look_every = LOOK_EVERY if -1 in watched else NEVER
        self.poll = select.poll()
        for sign in set(watched) - {-1}:
            self.poll.register(sign, select.POLLIN)
        self.wake, wake = os.pipe()
        self.poll.register(self.wake, select.POLLIN)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.end())

    def run(self) -> None:
        """Return when nothing is left below, ``stop_argv`` has run, and ``gone`` is said."""
        while True:
            if os.getppid() != self.parent:
                self.end()
            self.reap()
            if monotonic() >= self.kill_at and (self.engine or not self.childless):
                self.kill()
            # orphans become our children, so "no child" is exact; a scan of /proc can miss one
            if self.charge_gone and self.childless:
                break
            wait = min(max(0.0, self.kill_at - monotonic()), self.look_every)
            for fd, _ in self.poll.poll(None if wait == NEVER else wait * 1000):
                if fd == self.wake:
                    os.read(fd, 512)
                elif not self.hear(fd):
                    self.poll.unregister(fd)
                    self.end()
        self.run_stop_argv()
        send(self.fd, "gone")

    def hear(self, fd: int) -> bool:
        """Something came on ``fd``; False when it is somebody's end."""
        raise NotImplementedError

    def end(self) -> None:
        """Somebody above is gone: ask the charge to end, and kill what has not in time."""
        raise NotImplementedError

    def ended(self, pid: int, status: int) -> None:
        """A child was reaped, or an orphan that became one."""
        raise NotImplementedError

    def reap(self) -> None:
        """Take in all that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                self.childless = False
                return
            self.ended(pid, status)

    def signal_engine(self, number: int) -> None:
        """To the process group that it leads."""
        if self.engine:  # group 0 would be our own
            try:
                os.killpg(self.engine, number)
            except OSError:
                pass

    def kill(self) -> None:
        """SIGKILL to every descendant, and again after a pause that grows."""
        self.spare_until = self.spare_until or monotonic() + TIDY_PATIENCE
        seen: set[int] = set()
        for look in (children, descendants):  # what forks and exits is caught by the fast look only
            while new := set(look(os.getpid())) - seen:
                for pid in new:
                    if monotonic() < self.spare_until and tidies_up(pid):
                        continue
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
                seen |= new
        if not seen:  # /proc is missing: the group is all there is
            self.signal_engine(signal.SIGKILL)
        self.kill_at = monotonic() + self.pause
        self.pause = min(2 * self.pause, KILL_AT_LEAST_EVERY)
        self.reap()

    def run_stop_argv(self) -> None:
        """For engines that signals do not reach (``docker stop NAME``)."""
        if not self.stop_argv:
            return
        child = os.fork()
        if child == 0:
            try:
                os.execvpe(self.stop_argv[0], self.stop_argv, self.env)  # noqa: S606  # argv, never a shell
            finally:
                os._exit(127)
        deadline = monotonic() + STOP_ARGV_PATIENCE
        while monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            select.poll().poll(20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


class Inner(Guardian):
    """Starts the engine, obeys, reports.

    ``note`` is a pipe whose last word is for the outer one: the engine's pid, or 0 when it was reaped.
    """

    def __init__(
        self, fd: int, parent: int, watched: list[int], order: list[str], note: int
    ) -> None:
        super().__init__(fd, parent, watched, order)
        self.note = note
        self.buffer = bytearray()
        self.report, report = os.pipe()  # close-on-exec: silence means that exec worked
        me = os.getpid()
        self.engine = os.fork()
        if self.engine == 0:
            self._become_engine(me, report)
        os.close(report)
        self.poll.register(self.report, select.POLLIN)
        _let_go_of_output()

    def _become_engine(self, guardian: int, report: int) -> None:
        try:
            os.setsid()
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guardian:
                os._exit(127)
            ours = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
            os.write(
                self.note, b"%d\n" % os.getpid()
            )  # before exec: no engine that nobody knows of
            if self.cwd:
                os.chdir(self.cwd)
            os.execvpe(self.argv[0], self.argv, self.env)  # noqa: S606  # argv, never a shell
        except OSError as error:
            where = self.cwd if error.filename == self.cwd and self.cwd else self.argv[0]
            os.write(report, f"{where}: {error.strerror}".encode("utf-8", "replace"))
        finally:
            os._exit(127)

    def hear(self, fd: int) -> bool:
        """The outcome of exec, the manager's word, or somebody's end."""
        if fd == self.report:
            self._hear_exec()
            return True
        if fd != self.fd:
            return False
        try:
            data = os.read(fd, 65536)
        except OSError:
            return False
        self.buffer += data
        for message in split_messages(self.buffer):
            if message[0] == "signal":
                self.signal_engine(int(message[1]))
            elif message[0] == "kill":
                self.kill_at = 0.0
        return bool(data)

    def _hear_exec(self) -> None:
        reason = os.read(self.report, 4096).decode("utf-8", "replace")
        self.poll.unregister(self.report)
        os.close(self.report)
        self.report = -1
        if reason:
            self.stop_argv = []
            send(self.fd, "failed", reason)
        else:
            send(self.fd, "started", str(self.engine), str(os.getpid()))
            self.poll.register(
                self.fd, select.POLLIN
            )  # not before: no signal in the middle of exec

    def end(self) -> None:
        """SIGTERM to the engine, SIGKILL to everything after the grace."""
        if self.kill_at == NEVER:
            self.signal_engine(signal.SIGTERM)
            self.kill_at = monotonic() + self.grace

    def ended(self, pid: int, status: int) -> None:
        """Report the engine's end; what it left behind has no owner."""
        if pid != self.engine:
            return
        if self.report >= 0:
            self._hear_exec()
        send(self.fd, "exited", str(status))
        os.write(self.note, b"0\n")
        self.engine = 0
        self.charge_gone = True
        self.kill_at = 0.0


class Outer(Guardian):
    """Watches the ``inner`` guardian, and takes over when that one was killed."""

    def __init__(
        self, fd: int, parent: int, watched: list[int], order: list[str], inner: int, note: int
    ) -> None:
        self.inner = inner
        self.note = note
        self.engine_begun = False
        super().__init__(fd, parent, watched, order)
        os.set_blocking(note, False)
        self.poll.register(fd, 0)  # only that it hung up: what comes on it is for the inner one
        _let_go_of_output()

    def hear(self, fd: int) -> bool:  # noqa: ARG002  # the base class's signature
        """Always somebody's end."""
        return False

    def end(self) -> None:
        """Have the inner one do it; kill everything when it did not in time."""
        if self.kill_at == NEVER:
            os.kill(self.inner, signal.SIGTERM)
            patience = INNER_PATIENCE + (STOP_ARGV_PATIENCE if self.stop_argv else 0.0)
            self.kill_at = monotonic() + self.grace + patience

    def ended(self, pid: int, status: int) -> None:
        """The inner one did its work, or it was killed and its orphans are ours now."""
        if pid == self.inner and status == 0:
            os._exit(0)
        self._read_note()
        if pid == self.inner:
            self.charge_gone = True
            self.kill_at = 0.0
            if not self.engine_begun:
                self.stop_argv = []
        elif pid == self.engine:
            self.engine = 0
            send(self.fd, "exited", str(status))

    def _read_note(self) -> None:
        try:
            words = os.read(self.note, 512).split()
        except BlockingIOError:
            return
        if words:
            self.engine_begun = True
            self.engine = int(words[-1])


def main(fd: int, manager: int) -> None:
    """Be the outer guardian, started by the process ``manager`` with a socket ``fd``; never returns."""
    os.set_inheritable(fd, False)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    manager_ended = pidfd(manager)
    # another parent: it died before, and the number may be another process's by now
    if os.getppid() == manager and (order := _first_message(fd, manager_ended)):
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        outer = os.getpid()
        outer_ended = pidfd(outer)
        read_note, write_note = os.pipe()  # both keep the reading end, so writing always works
        inner = os.fork()
        if inner:
            os.close(write_note)
            Outer(fd, manager, [manager_ended], order, inner, read_note).run()
        elif os.getppid() == outer:
            os.setsid()  # a signal to the outer one's group does not hit both
            _prctl(PR_SET_CHILD_SUBREAPER, 1)
            Inner(fd, outer, [manager_ended, outer_ended], order, write_note).run()
    os._exit(0)  # the interpreter's own end takes 6 ms, and the next engine waits for it
