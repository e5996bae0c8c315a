"""Back-off and quarantine, over any history of failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.restarts import RestartPolicy, RestartRecord

GAPS = st.lists(st.tuples(st.floats(0.0, 2000.0), st.floats(0.0, 200.0)), max_size=40)


def test_the_wait_doubles_from_one_second_to_a_minute():
    policy = RestartPolicy()
    assert [policy.delay(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_an_engine_that_served_for_a_minute_starts_counting_anew():
    record = RestartRecord()
    record.failed(0.0)
    record.failed(10.0)
    record.failed(1000.0, served_for=60.0)
    assert record.retry_at == 1001.0
    record.failed(1010.0, served_for=59.0)
    assert record.retry_at == 1012.0


def test_five_failures_in_ten_minutes_are_a_quarantine_until_somebody_asks():
    record = RestartRecord()
    for now in (0.0, 100.0, 200.0, 300.0):
        record.failed(now)
        assert not record.quarantined
    record.failed(599.0)
    assert record.quarantined
    assert not record.may_start(1e9)
    record.asked()
    assert record.may_start(599.0)


def test_four_failures_in_ten_minutes_are_none():
    record = RestartRecord()
    for now in (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0):
        record.failed(now)
    assert not record.quarantined


@given(GAPS)
def test_starts_are_never_closer_than_the_back_off_says(history):
    record, now = RestartRecord(), 0.0
    for gap, served in history:
        now += gap
        record.failed(now, served)
        assert now + 1.0 <= record.retry_at <= now + 60.0
        assert record.quarantined or not record.may_start(now)
        assert record.quarantined or record.may_start(record.retry_at)


@given(GAPS)
def test_a_broken_model_costs_at_most_five_starts_in_ten_minutes(history):
    record, now, starts = RestartRecord(), 0.0, []
    for gap, _ in history:
        now += gap
        if record.may_start(now):
            starts.append(now)
            record.failed(now)
    for first in starts:
        assert sum(first <= start < first + 600.0 for start in starts) <= 5
