"""What is handed over when, whatever the speed of either side; the clock is the test's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.errors import QueueFull
from enginery.streaming import TokenFeed
from enginery.streaming.feed import BLOCK, Delivery
from enginery.streaming.waiters import ThreadWaiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def feed_of(delivery=None, **named):
    clock = Clock()
    return TokenFeed(delivery=delivery or Delivery(), clock=clock, **named), clock


def texts(taken) -> list[str]:
    return [token.text for token in taken[0]]


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 3)),
        st.tuples(st.just("text"), st.just(1)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("wait"), st.floats(0, 0.1)),
        st.tuples(st.just("flood"), st.integers(1, 2 * BLOCK)),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)  # a busy machine is no failure
@given(
    moves=MOVES,
    least=st.integers(1, 5),
    exact=st.booleans(),
    room=st.integers(5, 20),
    end=st.sampled_from(["finish", "fail", "with the last token"]),
)
def test_every_token_comes_once_and_in_order_and_then_the_end(moves, least, exact, room, end):
    feed, clock = feed_of(Delivery(least, exact, 0.05), buffer_size=room)
    ids: list[int] = []
    said: list[str] = []
    seen = []

    def put(count: int, **named) -> None:
        new = list(range(len(ids), len(ids) + count))
        ids.extend(new)
        said.append(f"<{len(said)}>")
        feed.put(said[-1], new, logprobs=[-float(n) for n in new], **named)

    for what, number in moves:
        if what == "put":
            put(number)
        elif what == "text":
            said.append(f"<{len(said)}>")
            feed.put(said[-1])
        elif what == "flood":
            for _ in range(number):
                put(1)
        elif what == "wait":
            clock.now += number
        else:
            seen += feed.take()[0]
    if end == "finish":
        feed.finish("stop")
    elif end == "fail":
        feed.fail(OSError("gone"))
    else:
        put(1, finish_reason="length")
    while taken := feed.take()[0]:
        seen += taken
    assert feed.is_over
    assert "".join(token.text for token in seen) == "".join(said) == feed.full_text()
    assert [each for token in seen for each in token.token_ids] == ids
    assert [-value for token in seen for value in token.logprobs] == ids
    places = [token.index for token in seen]
    assert places == sorted(places)
    reasons = [token.finish_reason for token in seen]
    wanted = {"finish": ["stop"], "fail": [], "with the last token": ["length"]}[end]
    assert [reason for reason in reasons if reason] == wanted
    assert reasons[-1:] == wanted or end == "fail"
    assert isinstance(feed.error, OSError) == (end == "fail")


def test_a_reader_that_keeps_up_gets_single_tokens_and_one_that_does_not_the_rest_in_one():
    feed, _ = feed_of(buffer_size=3)
    for number in range(5000):
        feed.put(f"{number} ", (number,))
    taken, _ = feed.take()
    assert [token.token_ids for token in taken[:3]] == [(0,), (1,), (2,)]
    (rest,) = taken[3:]
    assert rest.token_ids == tuple(range(3, 5000))
    assert (rest.index, rest.token_id) == (3, 3)
    feed.put("again", (5000,))
    assert texts(feed.take()) == ["again"]


def test_what_nobody_reads_is_kept_in_few_objects():
    feed, _ = feed_of(buffer_size=3)
    for number in range(50 * BLOCK):
        feed.put("x", (number,))
    assert len(feed.unread) < 3 + 50 + BLOCK + 1


def test_the_first_token_never_waits_for_others():
    feed, _ = feed_of(Delivery(4, flush_s=9.0))
    feed.put("a", (1,))
    assert texts(feed.take()) == ["a"]
    for text in "bcd":
        feed.put(text, (1,))
        assert feed.take()[0] == []
    feed.put("e", (1,))
    assert texts(feed.take()) == ["bcde"]


def test_tokens_wait_for_no_others_longer_than_the_interval():
    feed, clock = feed_of(Delivery(4, flush_s=0.05))
    feed.put("a", (1,))
    feed.take()
    feed.put("b", (1,))
    clock.now += 0.03
    feed.put("c", (1,))
    began = clock.now - 0.03
    taken, until = feed.take()
    assert taken == []
    assert until == pytest.approx(began + 0.05)
    clock.now = until - 0.001
    assert feed.take()[0] == []
    clock.now = until
    assert texts(feed.take()) == ["bc"]


def test_without_an_interval_nothing_waits():
    feed, _ = feed_of(Delivery(4, flush_s=0))
    for text in "ab":
        feed.put(text, (1,))
        assert texts(feed.take()) == [text]


def test_the_end_waits_for_nobody():
    feed, _ = feed_of(Delivery(4, flush_s=9.0))
    feed.put("a", (1,))
    feed.take()
    feed.put("b", (1,))
    feed.finish()
    assert texts(feed.take()) == ["b"]
    assert feed.is_over


def test_batches_have_so_many_tokens_however_late_they_are_read():
    feed, _ = feed_of(Delivery(7, exact=True, flush_s=9.0), buffer_size=10)
    for number in range(3000):
        feed.put("x", (number,))
    taken, _ = feed.take()
    assert {len(token.token_ids) for token in taken} == {7}
    feed.finish()
    (last,), _ = feed.take()
    assert len(last.token_ids) == 3000 % 7


def test_a_batch_is_short_when_its_first_token_has_waited():
    feed, clock = feed_of(Delivery(3, exact=True, flush_s=0.05))
    feed.put("a", (1,))
    assert feed.take()[0] == []
    clock.now += 0.05
    assert texts(feed.take()) == ["a"]


def test_block_makes_the_producer_wait_for_a_reader():
    feed, _ = feed_of(buffer_size=2, on_full="block")
    waiter = ThreadWaiter()
    feed.put("a", (1,))
    assert not feed.must_wait(waiter)
    feed.put("b", (2,))
    assert feed.must_wait(waiter)
    assert texts(feed.take()) == ["a", "b"]
    waiter.wait(30)
    assert not feed.must_wait(waiter)


@pytest.mark.parametrize("end", ["close", "finish"])
def test_a_producer_that_waits_hears_of_the_end(end):
    feed, _ = feed_of(buffer_size=1, on_full="block")
    feed.put("a")
    waiter = ThreadWaiter()
    assert feed.must_wait(waiter)
    getattr(feed, end)()
    waiter.wait(30)
    assert not feed.must_wait(waiter)


def test_abort_gives_what_is_buffered_and_then_an_error():
    feed, _ = feed_of(buffer_size=2, on_full="abort")
    aborted, ended = [], []
    feed.on_abandon, feed._on_end = lambda: aborted.append(1), ended.append
    for text in "abcd":
        feed.put(text)
    assert texts(feed.take()) == ["a", "b", "c"]
    assert feed.is_over
    assert isinstance(feed.error, QueueFull)
    assert (aborted, ended) == ([1], [feed])


def test_after_it_is_abandoned_nothing_is_kept_and_the_producer_is_told_once():
    feed, _ = feed_of()
    told = []
    feed.on_abandon = lambda: told.append(1)
    feed.put("a")
    feed.abandon()
    feed.abandon()
    feed.put("b")
    assert told == [1]
    assert feed.full_text() == "a"
    feed.close()
    assert feed.finish_reason == "abort"


def test_an_end_that_was_reached_is_not_abandoned():
    feed, _ = feed_of()
    feed.on_abandon = lambda: pytest.fail("it was done")
    feed.finish("stop")
    feed.abandon()
    feed.close()
    feed.fail(OSError())
    assert (feed.finish_reason, feed.error) == ("stop", None)


def test_times_are_those_of_the_tokens():
    feed, clock = feed_of()
    clock.now += 0.5
    feed.put("a", (1,))
    clock.now += 0.25
    feed.put("b", (1, 2))
    clock.now += 1
    feed.finish()
    assert feed.first - feed.started == 0.5
    assert list(feed.gaps) == [0.25]
    assert (feed.total, feed.last, feed.ended) == (3, 1000.75, 1001.75)
