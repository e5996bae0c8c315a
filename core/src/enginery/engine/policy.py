"""The numbers of the scheduling policy. Values only; what they do is told in `scheduler`."""

from __future__ import annotations

from dataclasses import dataclass, field

from enginery.engine.placement import Bytes
from enginery.engine.restarts import RestartPolicy

__all__ = ["SchedulingLimits"]


@dataclass(frozen=True, slots=True)
class SchedulingLimits:
    """Numbers of the policy: seconds, requests per model for ``max_queue``, bytes for ``budget``."""

    max_wait: float = 30.0
    min_residency: float = 5.0
    drain_timeout: float = 60.0
    max_queue: int = 512
    budget: Bytes | None = None
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
