"""`TokenFeed`: the producer's end of a stream, and the tokens that nobody has read yet.

Knows: what is handed over when, what becomes of tokens for which there is no room, and the order of things: tokens
first, then the end or the error. Does not know: who reads, how he waits, or which engine produces. The reader's end
(`iterator`) holds this; this never holds the reader, so a reader that is dropped is noticed.

Every method may be called in any thread. `abandon` takes no lock: it runs where the garbage collector happens to be,
perhaps in a thread that holds this very lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from enginery.errors import QueueFull
from enginery.streaming.config import OnFull
from enginery.streaming.tokens import StreamToken, merged
from enginery.streaming.waiters import Waiter

__all__ = ["Delivery", "TokenFeed"]

BLOCK = 1024
"""Tokens beyond the buffer that are folded into one at a time: each is touched a few times in all."""

GAPS = 512
"""Times between tokens that are remembered per stream, the latest."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """When waiting tokens are handed over.

    Args:
        least: tokens at a time.
        exact: in groups of exactly ``least``, the first one too; else the first token goes at once, and
            whatever has come by then goes together.
        flush_s: seconds after which the oldest token waits no longer.
    """

    least: int = 1
    exact: bool = False
    flush_s: float = 0.05


ONE_BY_ONE = Delivery()


class TokenFeed:
    """What a producer puts in and a reader takes out.

    Args:
        buffer_size: tokens that wait one by one; at least ``delivery.least``.
        on_full: see `StreamingConfig`.
        delivery: when they are handed over.
        clock: monotonic seconds.
        on_end: called once, with this, when no more comes; never in the garbage collector.
    """

    def __init__(
        self,
        buffer_size: int = 100,
        on_full: OnFull = "coalesce",
        delivery: Delivery = ONE_BY_ONE,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_end: Callable[[TokenFeed], None] | None = None,
    ) -> None:
        self.on_full = on_full
        self.delivery = delivery
        self.clock = clock
        self.on_abandon: Callable[[], None] | None = None
        """How the producer hears that nobody reads any more; must take no lock."""
        self.started = clock()
        self.first: float | None = None
        self.last: float | None = None
        self.ended: float | None = None
        self.total = 0
        """Tokens that came; pieces of text where there are no ids."""
        self.texts: list[str] = []
        self.gaps: deque[float] = deque(maxlen=GAPS)
        self.finish_reason: str | None = None
        self.error: BaseException | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.abandoned = False
        self._room = buffer_size
        self._is_plain = delivery.least == 1 and not delivery.exact
        self._limit = BLOCK + buffer_size if on_full == "coalesce" else buffer_size
        self._single = 0 if delivery.exact else buffer_size  # where folding begins
        self._folded = self._single
        self._lock = Lock()
        self.unread: list[StreamToken] = []
        """Replaced, never emptied: its truth may be asked without the lock."""
        self._waiting = 0  # tokens in them
        self._reader: Waiter | None = None
        self._need = 1
        self._producer: Waiter | None = None
        self._on_end = on_end

    # -- the producer's side -------------------------------------------------------------------

    def put(
        self,
        text: str,
        token_ids: Sequence[int] = (),
        *,
        now: float | None = None,
        logprobs: Sequence[float] | None = None,
        finish_reason: str | None = None,
        is_special: bool = False,
    ) -> Waiter | None:
        """Add one token, or several that came together; returns who must be woken now.

        After the end, or once nobody reads, nothing happens. ``finish_reason`` makes it the last.
        """
        if now is None:
            now = self.clock()
        ids = tuple(token_ids)
        count = len(ids) or (1 if text else 0)
        with self._lock:
            if self.ended is not None or self.abandoned:
                return None
            token = StreamToken(
                text,
                ids[0] if ids else None,
                self.total,
                now,
                is_special,
                logprobs[0] if logprobs else None,
                ids,
                finish_reason,
                tuple(logprobs) if logprobs else (),
            )
            items = self.unread
            items.append(token)
            self._waiting += count
            self.total += count
            self.texts.append(text)
            if count:
                if self.last is not None:
                    self.gaps.append(now - self.last)
                else:
                    self.first = now
                self.last = now
            if finish_reason is not None:
                self.finish_reason = finish_reason
                reader = self._end(now)
            elif len(items) > self._limit and self._overflows():
                reader = self._end(now)
            else:
                reader = self._reader
                if reader is None or self._waiting < self._need:
                    return None
                self._reader = None
                return reader
        if self.error is not None and self.on_abandon is not None:
            self.on_abandon()
        self._tell()
        return reader

    def finish(self, reason: str = "stop", *, now: float | None = None) -> Waiter | None:
        """No more comes; the reader's last token says why."""
        return self.put("", now=now, finish_reason=reason)

    def fail(self, error: BaseException, *, now: float | None = None) -> Waiter | None:
        """No more comes: the reader gets what is buffered, and then this error."""
        with self._lock:
            if self.ended is not None:
                return None
            self.error = error
            reader = self._end(self.clock() if now is None else now)
        self._tell()
        return reader

    def close(self, reason: str = "abort") -> Waiter | None:
        """It is over for whoever produces: also when nobody reads, which ends what `put` would ignore."""
        with self._lock:
            if self.ended is not None:
                return None
            self.finish_reason = reason
            now = self.clock()
            if not self.abandoned:
                self.unread.append(StreamToken("", None, self.total, now, finish_reason=reason))
            reader = self._end(now)
        self._tell()
        return reader

    def must_wait(self, waiter: Waiter) -> bool:
        """True when there is no room: the producer then waits to be woken, and asks again."""
        with self._lock:
            full = (
                self.on_full == "block"
                and len(self.unread) >= self._room
                and self.ended is None
                and not self.abandoned
            )
            self._producer = waiter if full else None
            return full

    def usage(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """What the engine itself counted, if it says so."""
        self.prompt_tokens = prompt_tokens or self.prompt_tokens
        self.completion_tokens = completion_tokens or self.completion_tokens

    # -- the reader's side ---------------------------------------------------------------------

    def take(self, waiter: Waiter | None = None) -> tuple[list[StreamToken], float | None]:
        """What is to be handed over now. If nothing is: ``waiter`` will be woken, and when to ask again.

        The end is an empty list with `is_over`.
        """
        with self._lock:
            until = None
            items = self.unread
            if items:
                if self._is_plain and len(items) <= self._room:  # the usual case, for less
                    self.unread, self._waiting = [], 0
                    out = items
                else:
                    out, until = self._due()
                if out:
                    producer, self._producer = self._producer, None
                    if producer is not None:
                        producer.wake()
                    return out, None
            if waiter is not None and self.ended is None:
                self._reader = waiter
                self._need = self.delivery.least if self.unread else 1
            return [], until

    def leave(self) -> None:
        """Whoever waited does not wait any more."""
        with self._lock:
            self._reader = None

    @property
    def is_over(self) -> bool:
        """True when nothing comes any more and nothing is left."""
        return self.ended is not None and not self.unread

    def full_text(self) -> str:
        """All text that has come."""
        with self._lock:
            if len(self.texts) > 1:
                self.texts = ["".join(self.texts)]
            return self.texts[0] if self.texts else ""

    def drop(self) -> Waiter | None:
        """Throw away what was not read; returns the reader that waits, who must look again."""
        with self._lock:
            self.unread = []
            self._waiting = 0
            reader, self._reader = self._reader, None
            return reader

    def abandon(self) -> None:
        """Nobody will read: the producer is told, if it is not done. Takes no lock."""
        if self.abandoned:
            return
        self.abandoned = True
        if self.ended is None and self.on_abandon is not None:
            self.on_abandon()

    # -- inside; the lock is held in all of these ------------------------------------------------

    def _due(self) -> tuple[list[StreamToken], float | None]:
        items, delivery = self.unread, self.delivery
        if self._is_plain:
            return self._all(items[: self._room], items[self._room :]), None
        now = self.clock()
        until = items[0].timestamp + delivery.flush_s
        whole = self.ended is not None or now >= until
        if not delivery.exact:
            first = items[0].index == 0
            full = len(items) >= self._room
            if whole or first or full or self._waiting >= delivery.least:
                return self._all([], items), None
            return [], until
        groups, rest = _grouped(items, delivery.least)
        if whole and rest:
            groups.append(merged(rest))
            rest = []
        if groups:
            self._keep(rest)
            return groups, None
        return [], until

    def _all(self, single: list[StreamToken], together: list[StreamToken]) -> list[StreamToken]:
        self._keep([])
        if together:
            single.append(merged(together))
        return single

    def _keep(self, rest: list[StreamToken]) -> None:
        self.unread = rest
        self._waiting = sum(map(_count, rest))
        self._folded = self._single
        if self.on_full == "coalesce":
            self._limit = self._room + BLOCK

    def _overflows(self) -> bool:
        """There is no room for the last one. True when that ends the stream."""
        if self.on_full == "abort":
            self.error = QueueFull(
                f"the reader is more than {self._room} tokens behind, and on_full is abort"
            )
            return True
        if self.on_full == "coalesce":
            items, at = self.unread, self._folded
            if self.delivery.exact:
                groups, rest = _grouped(items[at:], self.delivery.least)
                items[at:] = [*groups, *rest]
                self._folded = at + len(groups)
            else:
                items[at:] = [merged(items[at:])]
                self._folded = at + 1
            self._limit = self._folded + BLOCK
        return False

    def _end(self, now: float) -> Waiter | None:
        self.ended = now
        reader, self._reader = self._reader, None
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.wake()
        return reader

    def _tell(self) -> None:
        if self._on_end is not None:
            self._on_end(self)


def _count(token: StreamToken) -> int:
    return len(token.token_ids) or (1 if token.text else 0)


def _grouped(items: list[StreamToken], size: int) -> tuple[list[StreamToken], list[StreamToken]]:
    """Groups of ``size`` tokens, and what is left; tokens that came together stay together."""
    groups: list[StreamToken] = []
    rest: list[StreamToken] = []
    count = 0
    for token in items:
        rest.append(token)
        count += _count(token)
        if count >= size:
            groups.append(merged(rest))
            rest, count = [], 0
    return groups, rest
