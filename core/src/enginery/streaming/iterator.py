"""`TokenStreamIterator` and `TextBatchIterator`: the reader's end of a stream.

Knows: how a thread or a task waits for tokens, and every way in which a reader can be gone: a `break`, a dropped
reference, a cancelled task, `close`. Does not know: which engine produces, or when tokens are handed over (`feed`).

`iter` and `aiter` give an object of their own, so that a `break` drops it even where the stream itself has a name; its
end is the request's end. That is also why a stream is read once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from enginery.errors import EngineryError
from enginery.streaming.config import OnFull
from enginery.streaming.feed import Delivery, TokenFeed
from enginery.streaming.tokens import StreamToken
from enginery.streaming.waiters import LoopWaiter, ThreadWaiter, wake_all

__all__ = ["TextBatchIterator", "TokenStreamIterator", "refuse_in_a_loop"]

T = TypeVar("T")

_NOTHING: tuple[list[StreamToken], None] = ([], None)


class _Stream(Generic[T]):
    """What both have in common: reading, leaving, and what can be asked meanwhile."""

    def __init__(self, feed: TokenFeed) -> None:
        self.feed = feed
        """The producer's end; a producer keeps this and not the stream, or the stream is never dropped."""
        self._hand: Iterator[T] = iter(())
        self._waiter: LoopWaiter | None = None
        self._is_read = False
        self._is_waiting = False
        self._is_closed = False

    def _shown(self, tokens: list[StreamToken]) -> list[T]:
        raise NotImplementedError

    # -- reading -------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:
        """Read it in this thread. Raises RuntimeError inside a running loop, or if somebody reads already."""
        refuse_in_a_loop()
        self._claim()
        return _Reader(self)

    def __aiter__(self) -> AsyncIterator[T]:
        """Read it in this task. Raises RuntimeError if somebody reads already."""
        self._claim()
        return _AsyncReader(self)

    def __next__(self) -> T:
        """The next one, without a loop around it. Leaving is then `close`, or dropping the stream."""
        for each in self._hand:
            return each
        return self._wait()

    def __anext__(self) -> Coroutine[Any, Any, T]:
        """The next one; cancelling it ends the request."""
        for each in self._hand:
            return _ready(each)
        return self._wait_async()

    def _claim(self) -> None:
        if self._is_read:
            raise RuntimeError("this stream is being read already, or was: ask for another one")
        self._is_read = True

    def _wait(self) -> T:
        refuse_in_a_loop()
        feed = self.feed
        self._begin()
        try:
            while not self._is_done():
                taken, until = feed.take() if feed.unread else _NOTHING
                if not taken:
                    waiter = ThreadWaiter()
                    taken, until = feed.take(waiter)
                if taken:
                    self._hand = iter(self._shown(taken))
                    for each in self._hand:
                        return each
                elif not self._is_done():
                    try:
                        waiter.wait(None if until is None else until - feed.clock())
                    finally:
                        feed.leave()
        finally:
            self._is_waiting = False
        self._raise_error()
        raise StopIteration

    async def _wait_async(self) -> T:
        if self._is_waiting:
            self._begin()
        self._is_waiting = True  # not by a call: all of this is per token
        feed = self.feed
        try:
            while True:
                if feed.unread:
                    taken, until = feed.take()
                elif self._is_closed or (feed.ended is not None and not feed.unread):
                    break
                else:
                    taken, until = _NOTHING
                if not taken:
                    waiter = self._renewed()
                    taken, until = feed.take(waiter)
                if taken:
                    self._hand = iter(self._shown(taken))
                    for each in self._hand:
                        return each
                elif feed.ended is not None or self._is_closed:
                    continue
                elif until is None:
                    await waiter.future
                else:
                    await waiter.wait(until - feed.clock())
        except asyncio.CancelledError:  # nobody reads any more
            feed.abandon()
            raise
        finally:
            self._is_waiting = False
        self._raise_error()
        raise StopAsyncIteration

    def _renewed(self) -> LoopWaiter:
        waiter = self._waiter
        if waiter is None or waiter.loop is not asyncio.get_running_loop():
            waiter = self._waiter = LoopWaiter()
        elif waiter.future.done():
            waiter.future = waiter.loop.create_future()
        return waiter

    def _is_done(self) -> bool:
        return self._is_closed or self.feed.is_over

    def _begin(self) -> None:
        if self._is_waiting:
            raise RuntimeError("this stream is being read already, by another thread or task")
        self._is_waiting = True

    def _raise_error(self) -> None:
        error, self.feed.error = self.feed.error, None
        if error is not None and not self._is_closed:
            raise error.again() if isinstance(error, EngineryError) else error

    # -- leaving -------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading: the request is aborted if it is not done, what was not read is dropped. Idempotent."""
        self._is_closed = True
        self._hand = iter(())
        self.feed.abandon()
        waiter = self.feed.drop()
        if waiter is not None:
            waiter.wake()

    async def aclose(self) -> None:
        """`close`; it does not wait."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        feed = getattr(self, "feed", None)  # a constructor that raised leaves none
        if feed is not None:
            feed.abandon()

    # -- what can be asked, at any time ----------------------------------------------------------

    @property
    def total_tokens(self) -> int:
        """Tokens that have come, read or not; where the engine counts them itself, its own count."""
        return self.feed.completion_tokens or self.feed.total

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens of the prompt; None until the engine has said so."""
        return self.feed.prompt_tokens

    @property
    def finish_reason(self) -> str | None:
        """``stop``, ``length``, ``abort``, or the engine's own word; None before the end, and after an error."""
        return self.feed.finish_reason

    @property
    def start_time(self) -> float:
        """When it was asked for, monotonic seconds."""
        return self.feed.started

    @property
    def end_time(self) -> float | None:
        """When the last token or the error came, monotonic seconds; None before."""
        return self.feed.ended

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the asking to the first token; None before it."""
        return None if self.feed.first is None else self.feed.first - self.feed.started

    @property
    def tokens_per_second(self) -> float | None:
        """The rate after the first token, whose time is the prompt's; None for fewer than two tokens, or none apart."""
        first, last, total = self.feed.first, self.feed.last, self.total_tokens
        if first is None or last is None or total < 2 or last <= first:
            return None
        return (total - 1) / (last - first)

    def get_full_text(self) -> str:
        """All text that has come, read or not."""
        return self.feed.full_text()


class TokenStreamIterator(_Stream[StreamToken]):
    """The tokens of one reply, for one reader: ``for`` in a thread or ``async for`` in a task.

    It is bounded: a reader that is behind gets merged tokens, and never loses one. Tokens come before the error that
    ended them. A `break`, a dropped reference, a cancelled task and `close` abort the request.

    Made by `StreamingEngine.generate_stream`, or by anybody who has tokens: `put`, `finish` and `error` may be called
    in any thread.

    Args:
        buffer_size: see `StreamingConfig`.
        on_full: same.
        feed: the producer's end, where there is one already.
    """

    def __init__(
        self, buffer_size: int = 100, on_full: OnFull = "coalesce", *, feed: TokenFeed | None = None
    ) -> None:
        super().__init__(TokenFeed(buffer_size, on_full, Delivery()) if feed is None else feed)

    def _shown(self, tokens: list[StreamToken]) -> list[StreamToken]:
        return tokens

    def put(
        self,
        text: str,
        token_ids: Sequence[int] = (),
        *,
        logprobs: Sequence[float] | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """Add a token; ``finish_reason`` makes it the last one."""
        waiter = self.feed.put(text, token_ids, logprobs=logprobs, finish_reason=finish_reason)
        if waiter is not None:
            wake_all([waiter])

    def finish(self, reason: str = "stop") -> None:
        """No more tokens come."""
        waiter = self.feed.finish(reason)
        if waiter is not None:
            wake_all([waiter])

    def error(self, error: BaseException) -> None:
        """No more tokens come; the reader gets this after those that are there."""
        waiter = self.feed.fail(error)
        if waiter is not None:
            wake_all([waiter])

    def collect(self) -> str:
        """Read to the end, and the whole text. Raises what reading raises."""
        for _ in self:
            pass
        return self.get_full_text()

    async def acollect(self) -> str:
        """`collect` in a task."""
        async for _ in self:
            pass
        return self.get_full_text()


class TextBatchIterator(_Stream[str]):
    """The text of one reply in batches of tokens; in all else as `TokenStreamIterator`."""

    def _shown(self, tokens: list[StreamToken]) -> list[str]:
        return [token.text for token in tokens if token.text]


class _Reader(Generic[T]):
    """One ``for`` loop; when it is dropped, nobody reads any more."""

    __slots__ = ("_stream",)

    def __init__(self, stream: _Stream[T]) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        for each in self._stream._hand:  # noqa: SLF001  # one class in two objects; per token, a call less
            return each
        return self._stream._wait()  # noqa: SLF001  # same

    def __del__(self) -> None:
        self._stream.feed.abandon()


class _AsyncReader(Generic[T]):
    """One ``async for`` loop; when it is dropped, nobody reads any more."""

    __slots__ = ("_stream",)

    def __init__(self, stream: _Stream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        for each in self._stream._hand:  # noqa: SLF001  # one class in two objects; per token, a call less
            return _ready(each)
        return self._stream._wait_async()  # noqa: SLF001  # same

    def __del__(self) -> None:
        self._stream.feed.abandon()


async def _ready(value: T) -> T:
    return value


def refuse_in_a_loop() -> None:
    """Raise RuntimeError in the thread of a running loop, which waiting would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "this would block the running event loop: use `async for`, or the async twin"
    )
