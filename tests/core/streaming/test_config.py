"""Settings of streams that make no sense are refused by name; and the numbers of many streams."""

from __future__ import annotations

import math

import pytest

from enginery.errors import ConfigError
from enginery.streaming import StreamingConfig, TokenFeed
from enginery.streaming.stats import StreamStats, percentile


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_tokens_per_yield": 0},
        {"buffer_size": 0},
        {"buffer_size": 1.5},
        {"min_tokens_per_yield": 9, "buffer_size": 8},
        {"flush_interval_ms": -1},
        {"flush_interval_ms": math.nan},
        {"flush_interval_ms": "50"},
        {"on_full": "forget"},
    ],
)
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(ConfigError) as refused:
        StreamingConfig(**wrong)
    assert refused.value.param in wrong


def test_percentiles_are_values_that_were_measured():
    assert percentile([], 50) is None
    assert [percentile(range(1, 101), share) for share in (50, 90, 99)] == [50, 90, 99]
    assert percentile([7.0], 99) == 7.0


def test_the_rate_counts_only_the_time_in_which_something_streamed():
    now = [0.0]
    stats = StreamStats(lambda: now[0])
    assert stats.read()["tokens_per_second"] is None
    for begin in (10.0, 100.0):
        now[0] = begin
        stats.began()
        feed = TokenFeed(clock=lambda: now[0], on_end=stats.ended)
        for _ in range(10):
            now[0] += 0.1
            feed.put("x", (1,))
        feed.finish()
    found = stats.read()
    assert found["tokens_per_second"] == pytest.approx(10)
    assert found["ttft_p50"] == pytest.approx(0.1)
    assert found["itl_p99"] == pytest.approx(0.1)
    assert (found["requests"], found["active"], found["failed"]) == (2, 0, 0)
