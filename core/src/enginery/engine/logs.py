"""An engine's output: bytes in, lines out, the last ones kept.

Knows: how to cut any bytes into printable lines of bounded length, a ring of the latest, and followers.
Does not know: whose output it is. Nothing here blocks or raises, whatever an engine prints: lines of
50 MB, progress bars, bad UTF-8, NUL, escape sequences.

A line costs 20 µs, most of it in `logging`, so an engine that prints 10 GB/min would stop the event loop.
Lines are therefore shown from a budget. Beyond it a chunk is only counted, and its end remembered;
once a second, and whenever somebody asks for the last lines, one line says what was left out and the
last KiB follow it.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from io import FileIO
from itertools import islice

from enginery.engine.clock import Clock, LoopClock, Timer

__all__ = ["EngineLog", "LineBudget", "LineSplitter", "LogReader", "plain"]

MAX_LINE = 16_384
"""Characters of one line that are kept; the rest of it is counted and dropped."""

KEPT_LINES = 1_000
"""Lines in the ring, and lines that a slow follower may be behind."""

LINES_PER_SECOND = 500.0
BURST = 2_000.0
"""Lines that may come at once; a model server prints some hundreds while it loads."""

BYTES_PER_LINE = 256
"""A longer line counts for more: decoding 64 KiB that are not UTF-8 takes as long as 200 lines."""

CHUNK = 64 * 1024
"""Bytes read at once: all that a pipe holds."""

TOLD_EVERY = 1.0
"""Seconds between two notes of what was left out."""

LAST_BYTES = 4_096
"""Bytes before each note's time that are shown all the same."""

_ENDS = re.compile(r"\r\n|\r|\n")
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and other strings
    r"|[ -/]*[0-~])"  # character sets (`tput sgr0` sends one), modes
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """``text`` without escape sequences and control characters: safe for a terminal and a log."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


class LineSplitter:
    r"""Cuts a stream of bytes into lines; ``\n``, ``\r\n`` and a progress bar's ``\r`` all end one.

    Bad UTF-8 becomes backslash escapes. A line longer than ``max_line`` characters is cut, with a
    note of how many were dropped.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._max = max_line
        self._line = ""
        self._dropped = 0
        self._after_cr = False

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """The lines that ``data`` completes; ``final`` also gives the unfinished one."""
        text = self._decode(data, final)
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        self._after_cr = text.endswith("\r") or (self._after_cr and not text)
        *complete, rest = _ENDS.split(text)
        lines = []
        for piece in complete:
            self._add(piece)
            lines.append(self._take())
        self._add(rest)
        if final and (self._line or self._dropped):
            lines.append(self._take())
        return lines

    def _add(self, piece: str) -> None:
        room = self._max - len(self._line)
        self._line += piece[:room]
        self._dropped += max(0, len(piece) - room)

    def _take(self) -> str:
        line = plain(self._line)
        if self._dropped:
            line += f" … [{self._dropped} more characters]"
        self._line, self._dropped = "", 0
        return line


class LineBudget:
    """Lines that may be shown: ``BURST`` at first, ``LINES_PER_SECOND`` more each second, never above."""

    def __init__(self) -> None:
        self._left = BURST
        self._at = 0.0

    def take(self, lines: float, now: float) -> bool:
        """Pay for ``lines``; False, and nothing is paid, when there is too little left."""
        self._left = min(BURST, self._left + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if lines > self._left:
            return False
        self._left -= lines
        return True


class _Follower:
    """Lines on their way to one reader, the oldest dropped when it is too far behind."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._lost = 0
        self._news = asyncio.Event()
        self._closed = False

    def put(self, line: str) -> None:
        self._lost += len(self._lines) == KEPT_LINES
        self._lines.append(line)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def lines(self) -> AsyncIterator[str]:
        while self._lines or not self._closed:
            await self._news.wait()
            self._news.clear()
            while self._lines:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    yield f"… [{lost} lines not shown]"
                yield self._lines.popleft()


class EngineLog:
    """One engine's latest lines, logged as they come.

    Args:
        name: the logger is ``enginery.engine.<name>``.
        on_line: called with each line that is not empty: the readiness hint listens here.
        clock: seconds, for the budget.
        hide: takes secrets out of a line.
    """

    def __init__(
        self,
        name: str,
        on_line: Callable[[str], None] | None = None,
        *,
        clock: Clock | None = None,
        hide: Callable[[str], str] | None = None,
    ) -> None:
        self._hide = hide
        self._logger = logging.getLogger(f"enginery.engine.{name}")
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._on_line = on_line
        self._followers: set[_Follower] = set()
        self._closed = False
        self.clock: Clock = clock or LoopClock()
        self.budget = LineBudget()
        """Shared by the engine's two pipes."""
        self.flooded: set[LogReader] = set()
        """Readers that have something left out to tell of."""
        self.bytes_seen = 0
        """Grows with every byte printed: a sign of life while an engine loads."""

    def add(self, line: str, level: int) -> None:
        """Keep and log one line; empty ones are dropped."""
        if not line.strip():
            return
        if self._hide is not None:
            line = self._hide(line)
        self._lines.append(line)
        self._logger.log(level, "%s", line)
        if self._on_line is not None:
            self._on_line(line)
        for follower in self._followers:
            follower.put(line)

    def tail(self, n: int = 20) -> list[str]:
        """The last ``n`` lines, oldest first; in a flood too they end with what was printed last."""
        for reader in tuple(self.flooded):
            reader.settle()
        return list(islice(self._lines, max(0, len(self._lines) - n), None))

    async def follow(self, tail: int = 0) -> AsyncGenerator[str]:
        """The last ``tail`` lines, then those from the first ``anext`` on, until the engine ended.

        A caller that is ``KEPT_LINES`` behind loses the oldest, and gets a line that says how many.
        """
        follower = _Follower()
        for line in self.tail(tail):
            follower.put(line)
        if self._closed:
            follower.close()
        self._followers.add(follower)
        try:
            async for line in follower.lines():
                yield line
        finally:
            self._followers.discard(follower)

    def close(self) -> None:
        """No line will come: end every `follow`."""
        self._closed = True
        for follower in self._followers:
            follower.close()


class LogReader:
    """Reads one pipe of an engine for as long as anybody holds its other end.

    By chunk, never by line, so no line is too long, and always, so no engine ever waits for a reader. The pipe is
    watched, not handed to a transport, for the reason that `enginery.engine.control` gives for its socket.
    """

    def __init__(self, log: EngineLog, level: int) -> None:
        self._log = log
        self._level = level
        self._splitter = LineSplitter()
        self._passed_bytes = self._passed_lines = 0  # counted only, since the last note
        self._last = b""  # of these, the end
        self._timer: Timer | None = None
        self._loop = asyncio.get_running_loop()
        self._pipe: FileIO | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()

    def read(self, pipe: FileIO) -> None:
        """Read ``pipe`` from now on; it is closed at its end, or by `close`."""
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._loop.add_reader(pipe.fileno(), self._readable, pipe)

    def _readable(self, pipe: FileIO) -> None:
        try:
            data = pipe.read(CHUNK)
        except OSError:
            data = b""
        if data:
            self.feed(data)
        elif data is not None:  # None: there was nothing to read after all
            self.close()

    def feed(self, data: bytes) -> None:
        """Take in what the engine printed."""
        self._log.bytes_seen += len(data)
        lines = _line_ends(data)
        cost = max(lines, len(data) // BYTES_PER_LINE)
        if self._timer is None and self._log.budget.take(cost, self._log.clock.now()):
            self._show(self._splitter.feed(data))
        else:
            self._pass_over(data, lines)

    def _pass_over(self, data: bytes, lines: int) -> None:
        if self._timer is None:
            self._show(self._splitter.feed(b"", final=True))
            self._log.flooded.add(self)
            self._timer = self._log.clock.call_at(self._log.clock.now() + TOLD_EVERY, self.settle)
        self._passed_bytes += len(data)
        self._passed_lines += lines
        self._last = data[-LAST_BYTES:] if len(data) >= LAST_BYTES else self._last + data
        self._last = self._last[-LAST_BYTES:]

    def settle(self) -> None:
        """Tell what was left out and show its end; the next chunk is shown if the budget has room."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._log.flooded.discard(self)
        last, self._last = self._last, b""
        if self._passed_bytes > len(last):  # its first line has no beginning
            last = last[_after_first_line_end(last) :]
        lines, self._passed_lines = max(0, self._passed_lines - _line_ends(last)), 0
        left_out, self._passed_bytes = self._passed_bytes - len(last), 0
        if left_out:
            self._log.add(f"… [{lines} lines, {left_out} bytes not shown]", self._level)
        self._show(self._splitter.feed(last))

    def close(self) -> None:
        """No more comes: the last holder of the pipe is gone, or nobody wants to read it any longer."""
        if self.closed.done():
            return
        self.closed.set_result(None)
        if self._pipe is not None:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
        self.settle()
        self._show(self._splitter.feed(b"", final=True))

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            self._log.add(line, self._level)


def _line_ends(data: bytes) -> int:
    """An engine's output ends its lines in one way: this counts twice as fast as an exact count."""
    return data.count(b"\n") or data.count(b"\r")


def _after_first_line_end(data: bytes) -> int:
    r"""Where the second line begins; 0 when there is only one."""
    begin = (data.find(b"\n") + 1) or (data.find(b"\r") + 1)
    return begin if begin < len(data) else 0
