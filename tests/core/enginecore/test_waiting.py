from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.enginecore import EngineCoreRequest, Request, RequestStatus
from enginery.enginecore.waiting import WaitingQueue
from support.properties import steady


def push(queue, name, *, now, priority=0, arrival=0.0) -> Request:
    asked = EngineCoreRequest(name, [1], priority=priority, arrival_time=arrival)
    made = Request.of(asked, 100, queue.rank(asked, now))
    queue.push(made)
    return made


def order(queue) -> list[str]:
    names = []
    while queue.head() is not None:
        names.append(queue.pop().request_id)
    return names


def test_within_a_priority_the_first_goes_first() -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    for name in ("a", "b", "c"):
        push(queue, name, now=5.0)  # all at the same instant
    assert order(queue) == ["a", "b", "c"]


def test_a_higher_priority_goes_first_but_only_for_its_worth_in_seconds() -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    push(queue, "patient", now=0.0)
    push(queue, "urgent", now=9.0, priority=1)
    push(queue, "too late to overtake", now=11.0, priority=1)
    assert order(queue) == ["urgent", "patient", "too late to overtake"]


def test_an_arrival_in_the_future_counts_as_now_and_one_in_the_past_as_it_was() -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    push(queue, "from the future", now=5.0, arrival=99.0)
    push(queue, "later", now=6.0)
    push(queue, "was on its way", now=7.0, arrival=4.0)
    assert order(queue) == ["was on its way", "from the future", "later"]


def test_finished_requests_leave_without_being_shown() -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    first, _ = push(queue, "a", now=1.0), push(queue, "b", now=2.0)
    first.status = RequestStatus.ABORTED
    queue.drop_finished()
    assert len(queue) == 1
    assert order(queue) == ["b"]
    assert queue.head() is None


def test_ten_thousand_dropped_requests_leave_no_entries_behind() -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    kept = push(queue, "kept", now=0.0, priority=-1)
    for number in range(10_000):
        one = push(queue, str(number), now=1.0)
        one.status = RequestStatus.ABORTED
        queue.drop_finished()
    assert len(queue) == 1
    assert len(queue._heap) < 200
    assert queue.head() is kept


def test_aging_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match="aging_s"):
        WaitingQueue(0.0)


@settings(steady, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 100), st.booleans()), max_size=150),
)
def test_nobody_is_overtaken_by_one_that_came_later_than_its_priority_is_worth(arrivals) -> None:
    queue: WaitingQueue[Request] = WaitingQueue(10.0)
    now, asked = 0.0, {}
    for number, (priority, gap, dropped) in enumerate(arrivals):
        now += gap / 10
        one = push(queue, str(number), now=now, priority=priority)
        if dropped:
            one.status = RequestStatus.ABORTED
            queue.drop_finished()
        else:
            asked[str(number)] = (priority, now)
    assert len(queue) == len(asked)
    served = order(queue)
    assert sorted(served) == sorted(asked)
    for place, name in enumerate(served):
        for later in served[place + 1 :]:
            (p1, t1), (p2, t2) = asked[name], asked[later]
            assert t1 - 10 * p1 <= t2 - 10 * p2
            if p1 == p2:
                assert int(name) < int(later)
