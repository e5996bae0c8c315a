"""One generator in one thread, and the pipe by which threads wake a loop.

Knows: how to run, slow down and stop a generator from outside. Does not know: requests or outputs.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Ended", "PieceThread", "WakePipe"]

_AHEAD = 64
"""Pieces that a generator may be ahead of its reader: enough for any step, and no memory to speak of."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The generator is done and its thread about to end; with what it raised, if it did."""

    error: BaseException | None = None


class PieceThread:
    """Runs a generator, and delivers its pieces and then exactly one `Ended`.

    Args:
        make: returns the iterable; called in the thread, so a plain function works too.
        deliver: called in the thread with each piece; must not block.
        name: for the thread's name.
    """

    def __init__(
        self, make: Callable[[], Iterable[Any]], deliver: Callable[[str | Ended], None], name: str
    ) -> None:
        self._make = make
        self._deliver = deliver
        self._stopped = False
        self._credits = threading.Semaphore(_AHEAD)
        self._thread = threading.Thread(
            target=self._run, name=f"enginery-generate-{name}", daemon=True
        )
        self._thread.start()

    def collected(self) -> None:
        """One piece was taken: the generator may go on by one."""
        self._credits.release()

    def stop(self) -> None:
        """Close the generator at its next ``yield``. Returns at once."""
        self._stopped = True
        self._credits.release()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end, at most so many seconds."""
        self._thread.join(max(timeout, 0.0))

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            pieces = iter(self._make())
            try:
                self._pump(pieces)
            finally:
                close = getattr(pieces, "close", None)  # plain iterators have none
                if close is not None:
                    close()
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it is this request's alone
            error = raised
        self._deliver(Ended(error))

    def _pump(self, pieces: Iterator[Any]) -> None:
        for piece in pieces:
            if not isinstance(piece, str):
                raise TypeError(f"generate must yield strings, got {type(piece).__name__}")
            if not piece.isascii():
                piece.encode()  # a lone surrogate is no text: better here than where replies are encoded
            self._credits.acquire()
            if self._stopped:
                return
            self._deliver(piece)


class WakePipe:
    """A descriptor that is readable from `set` to `clear`. `set` may be called in any thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.Lock()
        self._is_set = False
        self._closed = False

    def fileno(self) -> int:
        """For `select`."""
        return self._read

    def set(self) -> None:
        """Make it readable; nothing happens after `close`."""
        with self._lock:
            if not self._is_set and not self._closed:
                self._is_set = True
                os.write(self._write, b"\0")

    def clear(self) -> None:
        """Make it unreadable; call this before looking for what it announced."""
        with self._lock:
            if self._is_set:
                self._is_set = False
                with contextlib.suppress(BlockingIOError):
                    os.read(self._read, 64)

    def wait(self, timeout: float) -> None:
        """Until it is readable, at most so many seconds."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.poll(timeout * 1000)

    def close(self) -> None:
        """Free both ends. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._read)
                os.close(self._write)
