"""How many threads compute on a CPU: one less than cores, whichever thread steps the engine.

Knows: that OpenMP counts them for each calling thread apart, so that a number which the loading thread set does not
hold in another one that steps; vLLM's kernels refuse to go on where the two differ.

vLLM itself leaves a core in a worker process, but not in one process. Its threads spin while they wait for each other: on
two busy cores two of them made some 10 tokens a second where one makes hundreds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache

__all__ = ["CpuThreads"]


class CpuThreads:
    """The number of this process's engine; ``OMP_NUM_THREADS`` in the environment says otherwise.

    Made before the engine is.
    """

    def __init__(self) -> None:
        from vllm.platforms import current_platform

        chosen = current_platform.is_cpu() and "OMP_NUM_THREADS" not in os.environ
        self._count = max(1, len(os.sched_getaffinity(0)) - 1) if chosen else 0
        self._set = _torchs_own() if chosen else None
        self._held = threading.local()

    def hold(self) -> None:
        """Before anything is computed; costs next to nothing from the second time in a thread."""
        if self._set is not None and not hasattr(self._held, "by_this_one"):
            self._set(self._count)
            self._held.by_this_one = True


@cache
def _torchs_own() -> Callable[[int], None]:
    """What sets the calling thread's number: vLLM puts something in its place that does nothing, with its first engine."""
    import torch

    found: Callable[[int], None] = torch.set_num_threads
    return found
