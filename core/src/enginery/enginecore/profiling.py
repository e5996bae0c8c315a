"""Profiling a number of steps with `cProfile`, where it costs nothing until it is asked for.

Knows: one profile at a time, and the file it ends in. Does not know: what a step does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enginery.errors import InvalidRequest

if TYPE_CHECKING:
    from cProfile import Profile

__all__ = ["StepProfiler"]


class StepProfiler:
    """Started and stopped by hand, or stopped after a number of steps. Of the calling thread alone."""

    def __init__(self) -> None:
        self._profile: Profile | None = None
        self._path = ""
        self._left: int | None = None

    @property
    def active(self) -> bool:
        """True between start and stop."""
        return self._profile is not None

    def start(self, prefix: str | None, max_iterations: int | None) -> str:
        """Begin; returns the path of the file that will hold the profile (for `pstats`).

        Args:
            prefix: path without ``.pstats``; None, a new file where temporary files are kept.
            max_iterations: steps after which it stops by itself; None, never.

        Raises:
            InvalidRequest: one is active, or a value is wrong.
        """
        if self._profile is not None:
            raise InvalidRequest(f"a profile into {self._path} is active", param="is_start")
        if max_iterations is not None and max_iterations < 1:
            raise InvalidRequest("max_iterations must be at least 1", param="max_iterations")
        from cProfile import Profile  # children start without it

        if prefix is None:
            import tempfile

            prefix = str(Path(tempfile.mkdtemp(prefix="enginery-profile-")) / "steps")
        elif not Path(prefix).parent.is_dir():
            raise InvalidRequest(f"prefix: {Path(prefix).parent} is no directory", param="prefix")
        self._path = f"{prefix}.pstats"
        self._left = max_iterations
        self._profile = Profile()
        self._profile.enable()
        return self._path

    def step(self) -> None:
        """A step has ended."""
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self.stop()

    def stop(self) -> str:
        """End, write the file, and return its path. Raises `InvalidRequest` when none is active."""
        if self._profile is None:
            raise InvalidRequest("no profile is active", param="is_start")
        self._profile.disable()
        profile, self._profile, self._left = self._profile, None, None
        profile.dump_stats(self._path)
        return self._path
