"""The scheduler and its ledger, whatever comes, is aborted, and loses its blocks."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.batching import add, compute, scheduler
from support.properties import steady


class Batching(RuleBasedStateMachine):
    """A small cache, few seats, a small budget; requests come, are aborted, and lose their blocks."""

    SEATS, BUDGET, BLOCKS, SIZE = 3, 7, 8, 4

    def __init__(self) -> None:
        super().__init__()
        self.it = scheduler(
            blocks=self.BLOCKS,
            size=self.SIZE,
            max_num_seqs=self.SEATS,
            max_num_batched_tokens=self.BUDGET,
            max_model_len=24,
        )
        self.now = 0.0
        self.wanted: dict[str, int] = {}
        self.got: dict[str, list[int]] = {}
        self.ended: list[str] = []
        self.number = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20),
        most=st.integers(1, 12),
        priority=st.integers(-2, 2),
        gap=st.integers(0, 30),
    )
    def arrive(self, prompt, most, priority, gap) -> None:
        self.now += gap
        name = str(self.number)
        self.number += 1
        add(self.it, name, prompt, now=self.now, priority=priority, max_tokens=most)
        self.wanted[name] = min(most, 24 - len(prompt))
        self.got[name] = []

    def one_step(self) -> None:
        work = self.it.schedule()
        assert work.total_num_scheduled_tokens <= self.BUDGET
        assert len(work.scheduled_requests) <= self.SEATS
        assert all(count >= 1 for count in work.num_scheduled_tokens)
        names = [request.request_id for request in work.scheduled_requests]
        assert len(set(names)) == len(names)
        for request, count in zip(work.scheduled_requests, work.num_scheduled_tokens, strict=True):
            assert request.num_computed_tokens + count <= request.room
        for output in compute(self.it, work):
            assert output.request_id not in self.ended
            self.got[output.request_id] += output.new_token_ids
            if output.finished:
                self.ended.append(output.request_id)

    @rule()
    def compute(self) -> None:
        self.one_step()

    @precondition(lambda self: self.it.has_requests())
    @rule(data=st.data())
    def abort(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.it._requests)))
        assert self.it.abort_requests([name]) == [name]
        del self.wanted[name]

    @rule(force=st.booleans())
    def reset(self, force) -> None:
        running = len(self.it.running)
        assert self.it.reset_prefix_cache(reset_running_requests=force) == (force or not running)

    @invariant()
    def running_ones_are_in_the_order_of_their_ranks_and_no_more_than_seats(self) -> None:
        ranks = [request.rank for request in self.it.running]
        assert ranks == sorted(ranks)
        assert len(ranks) <= self.SEATS

    @invariant()
    def blocks_belong_to_running_requests_alone(self) -> None:
        used = {block for request in self.it.running for block in request.block_ids}
        assert self.it.kv.num_used == len(used) <= self.BLOCKS

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.it.has_requests():
                break
            self.one_step()
        assert not self.it.has_requests()
        assert self.it.kv.num_free == self.BLOCKS
        assert {name: len(self.got[name]) for name in self.wanted} == self.wanted


Batching.TestCase.settings = settings(steady, max_examples=60)
test_batching_keeps_its_limits_and_ends_every_request = Batching.TestCase
