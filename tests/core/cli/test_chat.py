"""How fast a reply came, in words."""

from __future__ import annotations

import pytest

from enginery.cli.chat import SHORTEST_RATE, timing
from enginery.streaming import TokenStreamIterator
from enginery.streaming.feed import TokenFeed


def read(*times: float) -> TokenStreamIterator:
    """A stream that was asked for at 100 s, with a token at each of these seconds after it."""
    stream = TokenStreamIterator(feed=TokenFeed(clock=lambda: 100.0))
    for time in times:
        stream.feed.put("x", [1], now=100.0 + time)
    stream.finish()
    return stream


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((), "no tokens"),
        ((0.25,), "1 tokens, first token after 250 ms"),
        ((0.25, 0.5, 0.75), "3 tokens, first token after 250 ms, 4 tokens/s"),
    ],
)
def test_the_rate_is_that_of_the_tokens_after_the_first(times, said):
    assert timing(read(*times)) == said


def test_tokens_that_came_in_one_piece_have_no_rate():
    assert "tokens/s" not in timing(read(0.25, 0.25 + SHORTEST_RATE / 2))
    assert "tokens/s" in timing(read(0.25, 0.25 + SHORTEST_RATE * 2))
