"""What a reader gets: `StreamToken`, and the callback that gets the same in four arguments.

Knows: the fields, and how several tokens become one for a reader that is behind. Does not know: buffers, engines or
time. Times are seconds of `time.monotonic`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

__all__ = ["StreamCallback", "StreamToken", "merged"]


class StreamToken(msgspec.Struct, frozen=True, gc=False):
    """One token of a reply, or several that came together or were merged for a reader that is behind.

    Of several, ``text`` is all of theirs, ``finish_reason`` the last one's, and every other single value the first's.

    Args:
        text: what it adds to the reply; may be empty, as a token can be a part of a character.
        token_id: None where the engine gives no ids, as over HTTP.
        index: how many tokens of the reply came before it; a piece of text without ids counts as one.
        timestamp: when it came to this process, monotonic seconds.
        is_special: the end of the sequence; other special tokens cannot be told from here.
        logprob: its log-probability, if asked for and known.
        token_ids: all ids, in order; more than one if the engine or a merge put several together.
        finish_reason: on the last one alone: ``stop``, ``length``, ``abort``, or the engine's own word.
        logprobs: all log-probabilities, if asked for and known.
    """

    text: str
    token_id: int | None
    index: int
    timestamp: float
    is_special: bool = False
    logprob: float | None = None
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[float, ...] = ()


class StreamCallback(Protocol):
    """A function, plain or async, that is called with each token; the last call has ``is_finished``."""

    def __call__(
        self, token: str, token_id: int | None, is_finished: bool, finish_reason: str | None = None
    ) -> Awaitable[None] | None:
        """What it raises ends the request, and comes out of the call that it was given to."""
        ...


def merged(tokens: Sequence[StreamToken]) -> StreamToken:
    """One token that says what these said; there is at least one."""
    if len(tokens) == 1:
        return tokens[0]
    first, last = tokens[0], tokens[-1]
    return StreamToken(
        "".join([token.text for token in tokens]),
        first.token_id,
        first.index,
        first.timestamp,
        first.is_special,
        first.logprob,
        tuple([each for token in tokens for each in token.token_ids]),
        last.finish_reason,
        tuple([each for token in tokens for each in token.logprobs]),
    )
