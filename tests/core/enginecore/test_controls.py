from __future__ import annotations

import pytest

from enginery.enginecore import (
    CoreState,
    FinishReason,
    GeneratorBackend,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    EngineBusy,
    InvalidRequest,
    UnsupportedOperation,
)
from support.loops import Scripted, call, core_of, later, reasons, request, run

# -- pause, sleep, wake up -------------------------------------------------------------------------


def test_requests_that_arrive_while_paused_run_after_resume_in_their_order() -> None:
    core = core_of(max_batch_size=1)
    call(core, "pause")
    assert call(core, "is_paused") is True
    for name in "abc":
        core.add_request(request(name, max_tokens=1))
    assert not core.has_work()
    call(core, "resume")
    assert list(run(core)) == ["a", "b", "c"]


def test_pause_abort_ends_running_and_held_requests() -> None:
    core = core_of()
    core.add_request(request("a"))
    core.step()
    assert call(core, "pause", mode="keep") is None
    core.add_request(request("b"))
    call(core, "pause", mode="abort")
    assert reasons(run(core)) == {"a": FinishReason.ABORT, "b": FinishReason.ABORT}


def test_pause_wait_answers_when_the_running_ones_are_done() -> None:
    core = core_of()
    core.add_request(request("a", max_tokens=3))
    answer = later(core, "pause", mode="wait")
    core.add_request(request("b"))
    assert core.step().outputs[0].request_id == "a"
    assert answer.got == []
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}
    assert answer.result is None
    assert core.state is CoreState.PAUSED


def test_pause_keep_freezes_and_the_reply_goes_on_where_it_stood() -> None:
    calm, core = core_of(), core_of()
    for each in (calm, core):
        each.add_request(request(max_tokens=6))
    whole = run(calm)["a"].new_token_ids
    first = core.step().outputs[0].new_token_ids
    call(core, "pause", mode="keep")
    assert not core.has_work()
    assert core.step().outputs == []
    call(core, "resume")
    assert first + run(core)["a"].new_token_ids == whole


@pytest.mark.parametrize(("command", "args"), [("resume", {}), ("pause", {"mode": "keep"})])
def test_a_pause_that_waits_fails_when_it_can_come_no_more(command, args) -> None:
    core = core_of()
    core.add_request(request(max_tokens=50))
    answer = later(core, "pause", mode="wait")
    call(core, command, **args)
    with pytest.raises(EngineBusy, match="meanwhile"):
        _ = answer.result


def test_a_pause_that_waits_is_answered_after_an_abort() -> None:
    core = core_of()
    core.add_request(request(max_tokens=50))
    answer = later(core, "sleep", mode="wait")
    core.abort_requests(["a"])
    run(core)
    assert answer.result is None
    assert core.sleep_level == 1


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("mode", ["wait", "keep"])
def test_sleeping_and_waking_up_change_no_token(level, mode) -> None:
    calm, core = core_of(), core_of()
    for each in (calm, core):
        each.add_request(request(max_tokens=6))
    whole = run(calm)["a"].new_token_ids
    got = list(core.step().outputs[0].new_token_ids)
    answer = later(core, "sleep", level=level, mode=mode)
    got += run(core)["a"].new_token_ids if mode == "wait" else []
    assert answer.result is None
    assert (core.state, core.sleep_level) == (CoreState.SLEEPING, level)
    assert call(core, "is_sleeping") is True
    assert core.step().state is CoreState.SLEEPING
    core.add_request(request("later", max_tokens=1))
    assert not core.has_work()
    assert call(core, "wake_up") is True
    assert call(core, "is_sleeping") is False
    rest = run(core)
    assert got + (rest["a"].new_token_ids if "a" in rest else []) == whole
    assert rest["later"].finish_reason is FinishReason.LENGTH


def test_scheduling_goes_on_only_when_all_memory_is_there() -> None:
    core = core_of()
    call(core, "sleep", level=2)
    core.add_request(request(max_tokens=1))
    assert call(core, "wake_up", tags=["scheduling"]) is False
    assert call(core, "wake_up", tags=["weights"]) is False
    assert not core.has_work()
    assert call(core, "wake_up", tags=["kv_cache"]) is True
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}


def test_level_0_wakes_up_with_scheduling_alone() -> None:
    core = core_of()
    call(core, "sleep", level=0)
    assert call(core, "wake_up", tags=["weights"]) is False
    assert call(core, "wake_up", tags=["scheduling"]) is True
    assert call(core, "wake_up") is True


def test_asleep_it_can_go_deeper_but_not_run() -> None:
    core = core_of()
    call(core, "sleep", level=0)
    call(core, "sleep", level=2)
    call(core, "sleep", level=1)
    assert core.sleep_level == 2
    for method in ("resume", "execute_dummy_batch"):
        with pytest.raises(EngineBusy, match="level 2"):
            call(core, method)


def test_pausing_a_core_that_is_asleep_does_not_let_it_run() -> None:
    core = core_of()
    core.add_request(request(max_tokens=3))
    call(core, "sleep", level=1, mode="keep")
    assert later(core, "pause", mode="wait").result is None
    assert (core.state, core.has_work()) == (CoreState.SLEEPING, False)


def test_a_backend_without_memory_to_free_sleeps_at_level_0_only() -> None:
    core = core_of(GeneratorBackend(lambda _: []))
    call(core, "sleep", level=0)
    with pytest.raises(UnsupportedOperation, match="not at 1"):
        call(core, "sleep", level=1)
    core.shutdown()


def test_a_backend_that_fails_to_sleep_leaves_the_core_paused_and_alive() -> None:
    backend = create_backend(text=False)
    core = core_of(backend)
    backend.executor.sleep = lambda level: 1 / 0
    with pytest.raises(ZeroDivisionError):
        call(core, "sleep")
    assert core.state is CoreState.PAUSED
    call(core, "resume")
    core.add_request(request(max_tokens=1))
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}


# -- other calls -----------------------------------------------------------------------------------


def test_resetting_the_cache_follows_vllm() -> None:
    core = core_of()
    core.add_request(request(max_tokens=5))
    core.step()
    assert call(core, "reset_prefix_cache") is False
    assert call(core, "reset_prefix_cache", reset_running_requests=True) is True
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}
    assert call(core, "reset_prefix_cache") is True


@pytest.mark.parametrize(("clear", "left"), [(True, 0), (False, 2)])
def test_pausing_clears_the_cache_unless_it_must_not(clear, left) -> None:
    core = core_of()
    core.add_request(request(tokens=range(40), max_tokens=2))
    run(core)
    assert call(core, "get_stats")["kv_blocks_cached"] == 2
    call(core, "pause", clear_cache=clear)
    assert call(core, "get_stats")["kv_blocks_cached"] == left


def test_pausing_a_backend_without_a_cache_leaves_nothing_to_clear() -> None:
    core = core_of(Scripted())
    assert call(core, "pause", clear_cache=True) is None
    assert core.state is CoreState.PAUSED


@pytest.mark.parametrize(
    ("method", "args", "word"),
    [
        ("reset_prefix_cache", {}, "prefix cache"),
        ("profile", {}, "profiler"),
        ("execute_dummy_batch", {}, "dummy batch"),
        ("fly", {}, "no call 'fly'"),
    ],
)
def test_what_a_backend_lacks_is_unsupported_and_never_a_silent_no_op(method, args, word) -> None:
    core = core_of(Scripted())
    with pytest.raises(UnsupportedOperation, match=word):
        call(core, method, **args)
    assert core.state is CoreState.RUNNING


def test_a_backends_own_calls_are_passed_on() -> None:
    core = core_of(Scripted())
    assert call(core, "greet", name="you") == "hello you"
    with pytest.raises(KeyError):
        call(core, "greet")


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="tags"):
        call(core_of(), "wake_up", tags=["wieghts"])


def test_health_is_the_backends_own_word() -> None:
    backend = Scripted()
    core = core_of(backend)
    assert call(core, "check_health") is None
    backend.raises["check_health"] = EngineBusy("hot")
    with pytest.raises(EngineBusy, match="hot"):
        call(core, "check_health")
