"""The scheduler's seam: the events that it is told and the actions that it answers with.

Only values. The manager (or a test, or a simulation) creates events and carries out actions; the
scheduler turns one into the other. Times are monotonic seconds of one clock. A *generation* numbers
the starts of one instance, so that news of an earlier process is known to be old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from enginery.engine.policy import SchedulingLimits
from enginery.errors import EngineryError
from enginery.lifecycle import State
from enginery.values import Variant

__all__ = [
    "Action",
    "Cancelled",
    "Cleared",
    "Condemned",
    "Event",
    "Evict",
    "Examine",
    "Exited",
    "Failed",
    "Grant",
    "InstanceView",
    "Lost",
    "MemoryMeasured",
    "Moved",
    "Outcome",
    "Probe",
    "QueuedRequest",
    "Ready",
    "Reconfigured",
    "Reject",
    "Released",
    "Requested",
    "Scheduler",
    "ShutdownAsked",
    "Sleep",
    "SleepFailed",
    "Slept",
    "Start",
    "Stop",
    "StopFailed",
    "Stopped",
    "Suspected",
    "Tick",
    "Unhealthy",
    "UnloadAsked",
    "Unloaded",
    "Wake",
    "WakeMeAt",
    "Woke",
]


SWAP_TO = "swap to "
"""Begins the reason for which an engine makes room; the id of the one that gets it follows."""


class Outcome(StrEnum):
    """How a lease ended."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    ENGINE_ERROR = "engine_error"
    EVICTED = "evicted"
    TIMEOUT = "timeout"
    REJECTED = "rejected"


@dataclass(slots=True, unsafe_hash=True)  # one for each request: freezing costs 0.2 µs a field
class QueuedRequest:
    """One request that wants an engine.

    Args:
        id: unique; the answer names it.
        candidates: variants that can serve it, the best first; at least one.
        arrived: when it came.
        deadline: when it gives up waiting.
        priority: among requests of equal standing, higher first.
        tokens: prompt and reply together, where known.
        asked: somebody asks for this engine by name: back-off and quarantine do not hold it up.
    """

    id: int
    candidates: tuple[Variant, ...]
    arrived: float
    deadline: float
    priority: int = 0
    tokens: int | None = None
    asked: bool = False


# -- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody wants a lease."""

    request: QueuedRequest


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The one who asked left. Nothing happens if the request was answered already."""

    request_id: int


@dataclass(frozen=True, slots=True)
class Released:
    """A lease ended: its upstream connection is closed."""

    lease_id: int
    outcome: Outcome = Outcome.OK


@dataclass(frozen=True, slots=True)
class Ready:
    """The instance serves. An attached one says so after each look."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The attached instance does not answer; said after each look that found it so."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Failed:
    """The instance did not become ready, and nothing of it is left."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Exited:
    """The instance's process ended by itself while it served."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Stopped:
    """A `Stop` is done: nothing of the instance is left. Also when a leaked one is gone at last."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class StopFailed:
    """The instance would not die."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Slept:
    """A `Sleep` is done."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Woke:
    """A `Wake` is done: the instance serves again."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class SleepFailed:
    """A `Sleep` or `Wake` failed; the process still runs, in a state that nobody knows."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """What the instance holds now that it is ready: bytes per device.

    Args:
        instance: which.
        generation: which start of it.
        memory: its own processes', by the driver's account.
        gone: what is free no more since its start, which others may have taken too.
    """

    instance: str
    generation: int
    memory: Mapping[str, int]
    gone: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """Three probes in a row failed. The instance is restarted only if it has no lease."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Suspected:
    """The instance fell silent in the middle of a request, and nothing else of it moves."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """An `Examine` found that it generates."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Condemned:
    """An `Examine` got no token in time."""

    instance: str
    generation: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """Stop these instances; `Unloaded` answers. ``drain`` False: leases are evicted at once."""

    request_id: int
    instances: tuple[str, ...]
    drain: bool = True


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """Refuse everything from now on, drain for at most ``grace`` seconds, stop all."""

    grace: float


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """Other settings are in force: ``variants`` are all there are, by id; those in ``restart`` run otherwise now."""

    limits: SchedulingLimits
    variants: Mapping[str, Variant]
    restart: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed: the answer to `WakeMeAt`."""


Event = (
    Requested
    | Cancelled
    | Released
    | Ready
    | Lost
    | Failed
    | Exited
    | Stopped
    | StopFailed
    | Slept
    | Woke
    | SleepFailed
    | MemoryMeasured
    | Unhealthy
    | Suspected
    | Cleared
    | Condemned
    | UnloadAsked
    | ShutdownAsked
    | Reconfigured
    | Tick
)


# -- actions -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start the instance; answered by `Ready` or `Failed`."""

    variant: Variant
    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the instance, whether it is ready or still starting; answered by `Stopped`."""

    instance: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the instance to sleep; answered by `Slept` or `SleepFailed`."""

    instance: str
    generation: int
    level: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the instance; answered by `Woke` or `SleepFailed`."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Look at the attached instance now; answered by `Ready` or `Lost`."""

    instance: str
    generation: int


@dataclass(frozen=True, slots=True)
class Examine:
    """Have the instance generate one token; answered by `Cleared` or `Condemned`."""

    instance: str
    generation: int


@dataclass(slots=True, unsafe_hash=True)  # one for each request: freezing costs 0.2 µs a field
class Grant:
    """The request has its lease. Waited ``queue_s`` for others and ``swap_s`` for this engine."""

    request: QueuedRequest
    lease_id: int
    instance: str
    generation: int
    queue_s: float = 0.0
    swap_s: float = 0.0


Taken = tuple[int, str, int]
"""A lease that was had at once: its id, the instance and that one's generation."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is answered with an error."""

    request: QueuedRequest
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Evict:
    """The lease's engine is going or gone: end its request with ``error``, then release it."""

    lease_id: int
    error: EngineryError


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The answer to `UnloadAsked`; ``error`` if something is left."""

    request_id: int
    error: EngineryError | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """For the record: an instance went from one state to another, or came under suspicion in it."""

    variant: Variant
    generation: int
    before: State
    after: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WakeMeAt:
    """Send a `Tick` at this time; replaces the one before. None: there is nothing to wait for."""

    when: float | None


Action = (
    Start
    | Stop
    | Sleep
    | Wake
    | Probe
    | Examine
    | Grant
    | Reject
    | Evict
    | Unloaded
    | Moved
    | WakeMeAt
)


# -- the one who decides ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceView:
    """A copy of what is known of one instance; advisory, never to be acted on."""

    variant: Variant
    state: State
    generation: int
    in_flight: int
    queued: int
    since: float
    idle_since: float
    reason: str
    error: EngineryError | None
    memory: Mapping[str, int] | None
    retry_at: float | None
    quarantined: bool
    ttl: float | None
    suspect: bool = False


class Scheduler(Protocol):
    """What the manager needs of a policy."""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Everything that follows from ``event``. Never raises, never does I/O."""
        ...

    def try_acquire(self, candidates: Sequence[Variant], now: float) -> Taken | None:
        """A lease at once if a fitting instance is ready and not draining; the fast path.

        Nobody has waited for it, so it is less than a `Grant`, and costs less.
        """
        ...

    def try_release(self, lease_id: int, outcome: Outcome, now: float) -> bool:
        """End a lease from whose end nothing follows; False: nothing happened, tell it as `Released`."""
        ...

    def instances(self) -> list[InstanceView]:
        """Every instance there ever was, for status pages."""
        ...
