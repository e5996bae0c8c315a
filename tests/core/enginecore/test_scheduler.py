from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enginery.enginecore import (
    EngineCoreRequest,
    FinishReason,
    KVLedger,
    ModelRunnerOutput,
    RequestStatus,
    SamplingParams,
    SimpleScheduler,
)
from enginery.errors import ContextLengthExceeded, InvalidRequest
from support.properties import steady


def scheduler(blocks=64, size=4, **options) -> SimpleScheduler:
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 64, **options}
    return SimpleScheduler(KVLedger(blocks, size), **options)


def add(it, name, tokens=(1, 2, 3), *, now=1.0, priority=0, eos=None, **params):
    it.add_request(
        EngineCoreRequest(
            name, list(tokens), sampling_params=SamplingParams(**params), priority=priority
        ),
        now,
        eos,
    )


def compute(it, work, token=7, many=1):
    """What an executor would answer: the same token for everybody whose prompt is complete."""
    sampled = [
        [token] * many if request.num_computed_tokens + count >= request.num_tokens else []
        for request, count in zip(work.scheduled_requests, work.num_scheduled_tokens, strict=True)
    ]
    return it.update_from_output(work, ModelRunnerOutput(sampled))


def step(it, token=7, many=1):
    return compute(it, it.schedule(), token, many)


def plan(work) -> dict[str, int]:
    names = [request.request_id for request in work.scheduled_requests]
    return dict(zip(names, work.num_scheduled_tokens, strict=True))


def run(it, most=1000) -> dict[str, list[int]]:
    replies: dict[str, list[int]] = {}
    for _ in range(most):
        if not it.has_requests():
            return replies
        for output in step(it):
            replies.setdefault(output.request_id, []).extend(output.new_token_ids)
    raise AssertionError("it does not come to an end")


def test_a_prompt_is_computed_once_and_then_one_token_a_step() -> None:
    it = scheduler()
    add(it, "a", range(5), max_tokens=3)
    assert plan(it.schedule()) == {"a": 5}
    it = scheduler()
    add(it, "a", range(5), max_tokens=3)
    assert [o.new_token_ids for o in step(it)] == [[7]]
    work = it.schedule()
    assert plan(work) == {"a": 1}
    assert (work.num_decode_tokens, work.num_prefill_tokens) == (1, 0)
    compute(it, work)
    (last,) = step(it)
    assert last.finish_reason is FinishReason.LENGTH
    assert (last.num_prompt_tokens, last.num_output_tokens) == (5, 3)
    assert not it.has_requests()
    assert it.kv.num_used == 0


def test_a_prompt_longer_than_the_budget_is_computed_in_pieces() -> None:
    it = scheduler()
    add(it, "a", range(40))
    seen = []
    for _ in range(3):
        work = it.schedule()
        seen.append((plan(work), [o.new_token_ids for o in compute(it, work)]))
    assert seen == [({"a": 16}, []), ({"a": 16}, []), ({"a": 8}, [[7]])]


def test_running_replies_go_on_while_a_long_prompt_is_computed() -> None:
    it = scheduler()
    add(it, "short")
    step(it)
    add(it, "long", range(40))
    assert plan(it.schedule()) == {"short": 1, "long": 15}


def test_a_full_house_of_replies_cannot_starve_a_prompt() -> None:
    it = scheduler(max_num_batched_tokens=4)
    add(it, "long", range(30))
    for name in "abc":
        add(it, name, [1])
    for _ in range(30):
        step(it)
    assert it._requests["long"].num_output_tokens > 0


def test_no_more_run_at_once_than_seats_and_the_budget_is_kept() -> None:
    it = scheduler(max_num_seqs=2)
    for name in "abc":
        add(it, name, range(10))
    work = it.schedule()
    assert plan(work) == {"a": 10, "b": 6}
    assert it.num_waiting == 1


def test_the_end_of_sequence_is_a_stop_without_a_reason() -> None:
    it = scheduler()
    add(it, "a", eos=7)
    (output,) = step(it)
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, None)
    assert output.new_token_ids == [7]


def test_a_requests_own_end_of_sequence_counts_instead_of_the_models() -> None:
    it = scheduler()
    it.add_request(EngineCoreRequest("a", [1], eos_token_id=8), 1.0, 7)
    assert not step(it)[0].finished
    assert step(it, token=8)[0].finish_reason is FinishReason.STOP


def test_a_stop_token_is_its_own_reason() -> None:
    it = scheduler()
    add(it, "a", stop_token_ids=[7])
    (output,) = step(it)
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, 7)


def test_with_ignore_eos_only_length_ends_a_reply() -> None:
    it = scheduler()
    add(it, "a", eos=7, ignore_eos=True, max_tokens=3)
    assert len(run(it)["a"]) == 3


def test_nothing_but_length_ends_a_reply_before_min_tokens() -> None:
    it = scheduler()
    add(it, "a", stop_token_ids=[7], min_tokens=3, max_tokens=9)
    assert len(run(it)["a"]) == 3


def test_a_reply_ends_where_the_context_ends() -> None:
    it = scheduler(max_model_len=10)
    add(it, "a", range(6), max_tokens=None)
    assert len(run(it)["a"]) == 4


def test_the_context_is_what_the_cache_can_hold_if_that_is_less() -> None:
    it = scheduler(blocks=3, size=4)
    assert it.max_model_len == 12
    with pytest.raises(ContextLengthExceeded) as caught:
        add(it, "a", range(12))
    assert (caught.value.prompt_tokens, caught.value.context_length) == (12, 12)
    add(it, "b", range(11))
    assert len(run(it)["b"]) == 1


def test_several_new_tokens_in_one_step_end_where_the_reply_ends() -> None:
    it = scheduler()
    add(it, "a", max_tokens=5)
    assert step(it, many=3)[0].new_token_ids == [7, 7, 7]
    (output,) = step(it, many=3)
    assert output.new_token_ids == [7, 7]
    assert output.num_output_tokens == 5


def test_a_result_for_other_requests_than_were_asked_is_an_error() -> None:
    it = scheduler()
    add(it, "a")
    with pytest.raises(ValueError, match="0 of 1"):
        it.update_from_output(it.schedule(), ModelRunnerOutput([]))


def test_a_complete_prompt_without_a_new_token_is_an_error_and_no_endless_loop() -> None:
    it = scheduler()
    add(it, "a")
    with pytest.raises(ValueError, match="no token for 'a'"):
        it.update_from_output(it.schedule(), ModelRunnerOutput([[]]))


def test_log_probabilities_go_to_the_outputs_of_their_requests() -> None:
    it = scheduler()
    add(it, "a", max_tokens=1)
    add(it, "b")
    work = it.schedule()
    outputs = it.update_from_output(work, ModelRunnerOutput([[1, 2], [3]], [[-1.0, -2.0], [-3.0]]))
    assert {o.request_id: o.logprobs for o in outputs} == {"a": [-1.0], "b": [-3.0]}


def test_a_duplicate_is_refused_with_its_id() -> None:
    it = scheduler()
    add(it, "a")
    with pytest.raises(InvalidRequest, match="'a' is already running"):
        add(it, "a")


def test_an_id_can_be_used_again_after_its_request_has_ended() -> None:
    it = scheduler()
    add(it, "a", max_tokens=1)
    run(it)
    add(it, "a", max_tokens=2)
    assert len(run(it)["a"]) == 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_aborted_request_leaves_nothing_behind(steps) -> None:
    it = scheduler()
    add(it, "a", range(20))
    add(it, "b")
    for _ in range(steps):
        step(it)
    assert it.abort_requests(["a", "a", "unknown"]) == ["a"]
    assert it.abort_requests(["a"]) == []
    replies = run(it)
    assert set(replies) == {"b"}
    assert it.kv.num_used == 0
    assert it.num_waiting == 0


def test_what_was_computed_for_an_aborted_request_is_dropped() -> None:
    it = scheduler()
    add(it, "a")
    work = it.schedule()
    it.abort_requests(["a"])
    assert compute(it, work) == []
    assert it.kv.num_used == 0


def test_the_executor_is_told_once_who_is_gone() -> None:
    it = scheduler()
    add(it, "a", max_tokens=1)
    step(it)
    assert it.schedule().is_empty
    add(it, "b")
    assert it.schedule().finished == ["a"]
    assert it.schedule().finished == []


def test_when_blocks_run_out_the_last_in_rank_waits_and_nothing_is_lost() -> None:
    it = scheduler(blocks=4, size=4, max_model_len=16)
    add(it, "first", range(6), now=1.0, max_tokens=10)
    add(it, "second", range(100, 106), now=2.0, max_tokens=10)
    status = {}
    replies: dict[str, list[int]] = {}
    while it.has_requests():
        work = it.schedule()
        for name in work.preempted:
            status[name] = it._requests[name].status
        for output in compute(it, work):
            replies.setdefault(output.request_id, []).extend(output.new_token_ids)
    assert status == {"second": RequestStatus.PREEMPTED}
    assert {name: len(tokens) for name, tokens in replies.items()} == {"first": 10, "second": 10}
    assert it.stats()["preemptions"] == 1


def test_a_preempted_request_goes_before_those_that_came_after_it() -> None:
    it = scheduler(blocks=4, size=4, max_model_len=16)
    add(it, "first", range(7), now=1.0, max_tokens=9)
    add(it, "second", range(100, 107), now=2.0, max_tokens=3)
    step(it)
    step(it)
    add(it, "third", [1], now=3.0, max_tokens=1)
    step(it)
    assert it._requests["second"].status is RequestStatus.PREEMPTED
    done = []
    while it.has_requests():
        done += [o.request_id for o in step(it) if o.finished]
    assert done.index("second") < done.index("third")


def test_a_higher_priority_runs_on_and_the_lower_one_gives_its_blocks() -> None:
    it = scheduler(blocks=4, size=4, max_model_len=16)
    add(it, "low", range(7), now=1.0, max_tokens=5)
    step(it)
    add(it, "high", range(100, 107), now=2.0, priority=5, max_tokens=5)
    done = []
    while it.has_requests():
        done += [o.request_id for o in step(it) if o.finished]
    assert done == ["high", "low"]


def test_a_reset_is_refused_while_requests_run_and_forced_it_costs_no_token() -> None:
    it = scheduler()
    add(it, "a", range(9), max_tokens=6)
    step(it)
    assert it.reset_prefix_cache(reset_running_requests=False) is False
    assert it.reset_prefix_cache(reset_running_requests=True) is True
    assert it.kv.num_cached == 0
    assert len(run(it)["a"]) == 5


def test_the_second_request_reports_what_it_found_in_the_cache() -> None:
    it = scheduler()
    add(it, "a", range(9), max_tokens=1)
    run(it)
    add(it, "b", range(9), max_tokens=1)
    work = it.schedule()
    assert plan(work) == {"b": 1}
    assert compute(it, work)[0].num_cached_tokens == 8


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_batched_tokens": 3}, "max_num_batched_tokens"),
        ({"max_model_len": 1}, "max_model_len"),
    ],
)
def test_limits_that_cannot_work_are_refused(options, word) -> None:
    with pytest.raises(ValueError, match=word):
        scheduler(**options)


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
