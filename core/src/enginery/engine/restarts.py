"""When a failed engine may be started again. Pure: times in, times out.

Knows: the rhythm of back-off and quarantine. Does not know: why an engine failed, or who asks. One
`RestartRecord` belongs to one instance; the scheduler owns it.

After the n-th failure in a row the next start waits 1, 2, 4 ... at most 60 s. An engine that served for 60 s
is well again: the count starts anew. Five failures within ten minutes end in quarantine: nothing is started
until somebody asks for it by name. So a broken model costs one start per back-off, and a machine that
crash-loops at night is quiet in the morning.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["RestartPolicy", "RestartRecord"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The numbers, in seconds but for the two counts.

    Args:
        first: the wait after the first failure; each further one doubles it.
        longest: the most that is waited.
        stable: served for this long, an engine's earlier failures in a row are forgotten.
        failures: so many within ``window`` end in quarantine.
        window: over how long failures count for quarantine.
    """

    first: float = 1.0
    longest: float = 60.0
    stable: float = 60.0
    failures: int = 5
    window: float = 600.0

    def delay(self, in_a_row: int) -> float:
        """Seconds to wait after this many failures in a row; 0 for none."""
        if in_a_row <= 0:
            return 0.0
        return min(self.longest, self.first * 2.0 ** min(in_a_row - 1, 62))


@dataclass(slots=True)
class RestartRecord:
    """One engine's failures so far."""

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    in_a_row: int = 0
    retry_at: float = float("-inf")
    quarantined: bool = False
    _recent: deque[float] = field(default_factory=deque)

    def failed(self, now: float, served_for: float = 0.0) -> None:
        """It failed at ``now``, after serving for ``served_for`` seconds (0: it never was ready)."""
        if served_for >= self.policy.stable:
            self.in_a_row = 0
        self.in_a_row += 1
        self.retry_at = now + self.policy.delay(self.in_a_row)
        self._recent.append(now)
        while self._recent[0] <= now - self.policy.window:
            self._recent.popleft()
        if len(self._recent) >= self.policy.failures:
            self.quarantined = True

    def asked(self) -> None:
        """Somebody asked for it by name: try now, whatever happened."""
        self.in_a_row = 0
        self.retry_at = float("-inf")
        self.quarantined = False
        self._recent.clear()

    def may_start(self, now: float) -> bool:
        """True when a start needs no further waiting."""
        return not self.quarantined and now >= self.retry_at
