from __future__ import annotations

import pytest

from enginery.enginecore import EngineCoreRequest, FinishReason, ModelRunnerOutput, RequestStatus
from enginery.errors import ContextLengthExceeded, InvalidRequest
from support.batching import add, compute, plan, run, scheduler, step


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
