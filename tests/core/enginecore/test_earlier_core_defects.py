"""What earlier attempts at an engine core got wrong in the core itself, one test each; those of its clients are elsewhere."""

from __future__ import annotations

import typing

import msgspec
import pytest

from enginery.enginecore import (
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    GeneratorBackend,
    SamplingParams,
    messages,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import EngineDeadError, UnsupportedOperation


def core_of(**options) -> EngineCore:
    return EngineCore(create_backend(text=False, **options), log_stats=False)


def add(core, name, tokens=(1, 2, 3), **params) -> None:
    core.add_request(
        EngineCoreRequest(name, list(tokens), sampling_params=SamplingParams(**params))
    )


def steps_of(core) -> list[list[EngineCoreOutput]]:
    steps = []
    while core.has_work():
        steps.append(core.step().outputs)
    return steps


def test_a_request_finishes_by_itself_at_its_limit() -> None:
    core = core_of()
    add(core, "a", max_tokens=4)
    steps = steps_of(core)
    assert len(steps) == 4
    assert steps[-1][0].finish_reason is FinishReason.LENGTH


def test_computed_tokens_advance_so_a_long_history_leaves_the_budget_to_others() -> None:
    core = core_of(max_tokens=64, max_model_len=512)
    add(core, "old", range(60), max_tokens=400)
    for _ in range(100):
        core.step()
    add(core, "new", range(60), max_tokens=1)  # the old one's history is far over the budget
    assert [output.request_id for output in core.step().outputs] == ["old", "new"]


def test_a_running_batch_is_stepped_without_waiting_for_messages() -> None:
    core = core_of()
    add(core, "a", max_tokens=20)
    asked: list[float] = []
    step = core.backend.step
    core.backend.step = lambda timeout: asked.append(timeout) or step(timeout)
    while core.is_ready():  # what a driver asks before it would wait for a message
        core.step()
    assert len(asked) == 20
    assert set(asked) == {0.0}


def test_an_abort_has_an_output_so_nobody_waits_for_ever() -> None:
    core = core_of()
    add(core, "a")
    core.step()
    core.abort_requests(["a"])
    assert core.has_work()
    assert [o.finish_reason for o in core.step().outputs] == [FinishReason.ABORT]


def test_finished_and_aborted_requests_leave_nothing_behind() -> None:
    core = core_of(max_batch_size=8)
    for number in range(3000):
        add(core, str(number), [number], max_tokens=2)
        if number % 3 == 0:
            core.abort_requests([str(number)])
        core.step()
    steps_of(core)
    scheduler = core.backend.scheduler
    assert (len(core._requests), core._requests.num_held) == (0, 0)
    assert (len(scheduler._requests), len(scheduler.running), scheduler.num_waiting) == (0, 0, 0)
    assert scheduler.kv.num_used == 0
    assert len(scheduler._finished) <= 8


def test_a_request_that_still_waits_is_aborted_like_any_other() -> None:
    core = core_of(max_batch_size=1)
    add(core, "runs", max_tokens=3)
    core.step()
    add(core, "waits")
    assert core.abort_requests(["waits"]) == ["waits"]
    ended = {o.request_id: o.finish_reason for step in steps_of(core) for o in step if o.finished}
    assert ended == {"waits": FinishReason.ABORT, "runs": FinishReason.LENGTH}


def test_a_failing_executor_is_an_error_with_its_cause_and_not_an_empty_batch() -> None:
    core = core_of(fail_at_step=1)
    add(core, "a")
    (output,) = core.step().outputs
    assert output.finish_reason is FinishReason.ERROR
    assert "RuntimeError" in output.error.message
    assert core.state is CoreState.DEAD
    with pytest.raises(EngineDeadError):
        core.step()


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("profile", {}),
        ("reset_prefix_cache", {}),
        ("sleep", {"level": 1}),
        ("execute_dummy_batch", {}),
    ],
)
def test_what_is_not_there_raises_instead_of_returning_none_or_false(method, args) -> None:
    core = EngineCore(GeneratorBackend(lambda _: []))
    answers: list[tuple] = []
    core.utility(method, args, lambda result, error: answers.append((result, error)))
    ((result, error),) = answers
    assert result is None
    assert isinstance(error, UnsupportedOperation)
    core.shutdown()


def test_sleep_reset_profile_and_dummy_do_what_they_say(tmp_path) -> None:
    core = core_of()
    seen: list[object] = []

    def call(method, **args) -> None:
        core.utility(method, args, lambda result, error: seen.append(error or result))

    add(core, "a", range(40), max_tokens=1)
    steps_of(core)
    call("reset_prefix_cache")
    assert core.get_stats()["kv_blocks_cached"] == 0
    call("profile", prefix=str(tmp_path / "p"), max_iterations=1)
    add(core, "b", max_tokens=1)
    steps_of(core)
    assert (tmp_path / "p.pstats").stat().st_size > 0
    steps = core.backend.executor.steps
    call("execute_dummy_batch")
    assert core.backend.executor.steps == steps + 1
    call("sleep")
    call("is_sleeping")
    call("wake_up")
    call("is_sleeping")
    assert seen == [True, str(tmp_path / "p.pstats"), None, None, True, True, False]


def test_shutting_down_ends_what_is_in_flight() -> None:
    core = core_of()
    add(core, "a")
    core.step()
    assert [o.finish_reason for o in core.shutdown().outputs] == [FinishReason.ABORT]


def test_there_is_one_finish_reason_and_one_output_class() -> None:
    hints = typing.get_type_hints(EngineCoreOutput)
    assert hints["finish_reason"] == FinishReason | None
    assert messages.EngineCoreOutput is EngineCoreOutput
    assert [str(reason) for reason in FinishReason] == ["stop", "length", "abort", "error"]


def test_sampling_params_have_fields_that_can_be_listed_and_copied() -> None:
    params = SamplingParams(max_tokens=3)
    assert msgspec.structs.asdict(params)["max_tokens"] == 3
    assert msgspec.structs.replace(params, temperature=0.0).max_tokens == 3
