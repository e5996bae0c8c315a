"""The two processes that stand between the manager and one engine, and outlive neither.

Knows: one engine's command line and a socket to the manager. Does not know: what an engine is, or
anything else of this package: it runs by path, ``python -I -S …/guardian FD MANAGER_PID``, on the
standard library alone and on little of it, for every import is paid at each engine start.

    manager ── outer guardian ── inner guardian ── engine ── whatever it starts

The inner one works: it starts the engine in a session of the engine's own, obeys the manager, reports,
and kills. The outer one, which forked it, only watches. Each adopts every orphan below it (subreaper).

    killed              who ends the engine and every descendant
    manager             inner: SIGTERM, ``grace`` seconds, SIGKILL; outer, if that takes inner too long
    outer               inner, in the same way, and tells the manager
    inner               outer, which inherits all that was below it: SIGKILL, and tells the manager
    manager and outer   inner
    manager and inner   outer
    outer and inner     the kernel kills the engine (PDEATHSIG, set by inner's only thread), and only that

The messages (`messages` has their form):

    manager → guardian   cwd NUL grace NUL len(stop_argv) NUL len(env) NUL stop_argv... env... argv...    (first)
                         signal NUL number          to the engine's process group  (after `started`)
                         kill                       SIGKILL to every descendant    (after `started`)
    guardian → manager   started NUL engine's pid NUL inner's pid  |  failed NUL reason
                         exited NUL wait-status     the engine itself; perhaps twice, the first counts
                         gone                       no descendant is left; the guardians exit
"""

from .family import descendants
from .messages import split_messages

__all__ = ["STOP_ARGV_PATIENCE", "descendants", "split_messages"]

STOP_ARGV_PATIENCE = 30.0
"""Seconds that ``stop_argv`` may take."""
