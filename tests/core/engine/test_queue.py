"""The queue against a plain list that does the same slowly."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from enginery.engine.queue import RequestQueue
from enginery.engine.seam import QueuedRequest
from enginery.values import Variant

VARIANTS = {name: Variant(model=name) for name in "abc"}
WANTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)


class Queueing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue = RequestQueue()
        self.plain: list[QueuedRequest] = []
        self.now = 0.0
        self.last = 0

    @rule(wants=WANTS, patience=st.floats(0, 50), priority=st.integers(-2, 2), wait=st.floats(0, 5))
    def add(self, wants, patience, priority, wait):
        self.now += wait
        self.last += 1
        candidates = tuple(VARIANTS[name] for name in wants)
        request = QueuedRequest(self.last, candidates, self.now, self.now + patience, priority)
        self.queue.add(request)
        self.plain.append(request)

    @rule(data=st.data())
    def remove(self, data):
        request_id = data.draw(st.integers(0, self.last + 1))
        found = self.queue.remove(request_id)
        expected = [request for request in self.plain if request.id == request_id]
        assert found == (expected[0] if expected else None)
        self.plain = [request for request in self.plain if request.id != request_id]

    @rule(name=st.sampled_from("abc"))
    def take_for(self, name):
        variant = VARIANTS[name].id
        expected = [r for r in self.plain if any(v.id == variant for v in r.candidates)]
        assert self.queue.waiting_for(variant) == len(expected)
        assert self.queue.wants(variant) == bool(expected)
        assert self.queue.take_for(variant) == expected
        self.plain = [request for request in self.plain if request not in expected]

    @rule(later=st.floats(0, 30))
    def take_expired(self, later):
        self.now += later
        expected = [request for request in self.plain if request.deadline <= self.now]
        found = self.queue.take_expired(self.now)
        assert sorted(r.id for r in found) == [r.id for r in expected]
        self.plain = [request for request in self.plain if request not in expected]
        assert self.queue.next_deadline() == min((r.deadline for r in self.plain), default=None)

    @rule(max_wait=st.floats(0, 40))
    def overdue_groups_come_first_and_by_age(self, max_wait):
        groups = self.queue.groups(self.now, max_wait)
        assert sum(len(group.requests) for group in groups) == len(self.plain) == len(self.queue)
        overdue = [group.oldest for group in groups if self.now >= group.oldest + max_wait]
        assert [group.oldest for group in groups[: len(overdue)]] == sorted(overdue)
        rest = [(-group.priority, group.oldest) for group in groups[len(overdue) :]]
        assert rest == sorted(rest)


Queueing.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase
