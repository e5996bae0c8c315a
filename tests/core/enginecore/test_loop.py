from __future__ import annotations

import pytest

from enginery.enginecore import (
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    GeneratorBackend,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    InvalidRequest,
    UnsupportedOperation,
)
from support.loops import Scripted, call, core_of, later, reasons, request, run

# -- requests --------------------------------------------------------------------------------------


def test_a_request_runs_to_its_end_and_batches_are_numbered() -> None:
    core = core_of()
    core.add_request(request(max_tokens=3))
    batches = [core.step() for _ in range(3)]
    assert [batch.seq for batch in batches] == [1, 2, 3]
    assert batches[-1].finished_requests == {"a"}
    assert all(batch.timestamp > 0 for batch in batches)
    assert not core.has_work()
    assert core.step().seq == 3  # an empty batch has no number of its own


def test_a_duplicate_is_refused_with_its_id_and_the_first_goes_on() -> None:
    core = core_of()
    core.add_request(request(max_tokens=2))
    for again in (core.add_request, core.submit):
        with pytest.raises(InvalidRequest, match="'a' is already running"):
            again(request())
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}


def test_a_duplicate_of_a_held_request_is_refused_too() -> None:
    core = core_of()
    call(core, "pause")
    core.add_request(request())
    with pytest.raises(InvalidRequest, match="'a' is already running"):
        core.add_request(request())


def test_a_form_that_the_backend_does_not_take_is_unsupported() -> None:
    core = core_of()
    with pytest.raises(UnsupportedOperation, match="tokens, not as text"):
        core.add_request(EngineCoreRequest("a", prompt="hi"))
    core.submit(EngineCoreRequest("a", prompt="hi"))
    output = run(core)["a"]
    assert output.error.code == "unsupported_operation"


def test_a_request_that_the_backend_refuses_is_not_accepted() -> None:
    core = core_of(max_model_len=8)
    with pytest.raises(InvalidRequest, match="8 fit"):
        core.add_request(request(tokens=range(9)))
    assert not core.has_work()
    core.add_request(request(max_tokens=1))
    assert reasons(run(core)) == {"a": FinishReason.LENGTH}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ValueError("max_tokens: no"), InvalidRequest), (KeyError("x"), EngineError)],
)
def test_whatever_a_backend_raises_for_a_request_is_one_of_our_errors(raised, expected) -> None:
    backend = Scripted()
    backend.raises["add_request"] = raised
    core = core_of(backend)
    with pytest.raises(expected) as caught:
        core.add_request(request())
    assert caught.value.__cause__ is raised
    assert core.state is CoreState.RUNNING


def test_a_submitted_request_that_is_refused_has_one_output_with_the_error() -> None:
    core = core_of(max_model_len=8)
    core.submit(request(tokens=range(9)))
    assert core.is_ready()
    output = run(core)["a"]
    assert output.finish_reason is FinishReason.ERROR
    assert output.error.code == "context_length_exceeded"


def test_outputs_of_unknown_requests_and_second_endings_are_dropped() -> None:
    backend = Scripted()
    core = core_of(backend)
    core.add_request(request())
    end = EngineCoreOutput("a", finish_reason=FinishReason.STOP)
    backend.says = [[EngineCoreOutput("b", [1]), end], [end]]
    assert core.step().outputs == [end]
    assert core.step().outputs == []


# -- aborting --------------------------------------------------------------------------------------


def test_an_abort_is_idempotent_and_ends_each_request_once() -> None:
    core = core_of()
    core.add_request(request("a"))
    core.add_request(request("b", max_tokens=3))
    core.step()
    assert core.abort_requests(["a", "a", "nobody"]) == ["a"]
    assert core.abort_requests(["a"]) == []
    assert core.abort_requests([]) == []
    assert reasons(run(core)) == {"a": FinishReason.ABORT, "b": FinishReason.LENGTH}


def test_a_held_request_can_be_aborted_and_the_backend_never_hears_of_it() -> None:
    backend = Scripted()
    core = core_of(backend)
    call(core, "pause")
    core.add_request(request())
    assert core.abort_requests(["a"]) == ["a"]
    assert backend.calls == []
    assert reasons(run(core)) == {"a": FinishReason.ABORT}


# -- counting -------------------------------------------------------------------------------------


def test_stats_count_endings_and_come_every_second() -> None:
    now = [0.0]
    core = EngineCore(create_backend(text=False), clock=lambda: now[0])
    core.add_request(request("a", max_tokens=1))
    core.add_request(request("b"))
    core.abort_requests(["b"])
    assert core.step().stats is None
    now[0] = 1.0
    stats = core.step().stats
    assert (stats["finished_length"], stats["finished_abort"], stats["unfinished"]) == (1, 1, 0)
    assert stats["generation_tokens"] == 1
    assert core.step().stats is None


def test_stats_of_a_backend_are_numbers_only_and_may_fail() -> None:
    backend = Scripted()
    core = EngineCore(backend, clock=lambda: 5.0)
    stats = call(core, "get_stats")
    assert stats["own"] == 5
    assert "text" not in stats
    backend.raises["get_stats"] = RuntimeError("no")
    core._stats_at = 0.0
    assert core.step().stats is None


# -- the end ---------------------------------------------------------------------------------------


def test_a_drain_lets_accepted_requests_finish_and_refuses_others() -> None:
    core = core_of()
    core.add_request(request("a", max_tokens=3))
    call(core, "pause", mode="keep")
    core.add_request(request("held", max_tokens=1))
    core.drain()
    core.drain()
    with pytest.raises(EngineClosedError):
        core.add_request(request("b"))
    core.submit(request("b"))
    with pytest.raises(EngineClosedError):
        call(core, "resume")
    assert reasons(run(core)) == {
        "a": FinishReason.LENGTH,
        "held": FinishReason.LENGTH,
        "b": FinishReason.ABORT,
    }


def test_draining_a_core_without_its_memory_aborts_what_waits() -> None:
    core = core_of()
    call(core, "sleep", level=1)
    core.add_request(request())
    core.drain()
    assert reasons(run(core)) == {"a": FinishReason.ABORT}


def test_shutdown_ends_all_requests_and_calls_and_then_everything_raises() -> None:
    backend = Scripted()
    core = core_of(backend)
    core.add_request(request("a"))
    answer = later(core, "pause", mode="wait")
    core.add_request(request("b"))
    last = core.shutdown()
    assert last.finished_requests == {"a", "b"}
    assert last.state is CoreState.CLOSED
    with pytest.raises(EngineClosedError):
        _ = answer.result
    assert core.shutdown().outputs == []
    assert not core.has_work()
    assert not core.is_ready()
    assert core.wake_fd() is None
    for attempt in (core.step, lambda: core.add_request(request()), lambda: call(core, "resume")):
        with pytest.raises(EngineClosedError):
            attempt()
    assert core.abort_requests(["a"]) == []
    assert ("shutdown",) in backend.calls


def test_a_backend_that_fails_to_shut_down_does_not_stop_the_shutdown() -> None:
    backend = Scripted()
    backend.raises["shutdown"] = RuntimeError("stuck")
    core = core_of(backend)
    core.add_request(request())
    assert core.shutdown().finished_requests == {"a"}


def test_when_the_backend_raises_everyone_is_told_why_and_then_everything_raises() -> None:
    core = core_of(fail_at_step=2)
    core.add_request(request("a", max_tokens=9))
    core.step()
    answer = later(core, "pause", mode="wait")
    core.add_request(request("b"))
    batch = core.step()
    assert batch.state is CoreState.DEAD
    assert {o.request_id: o.error.code for o in batch.outputs} == {
        "a": "engine_crashed",
        "b": "engine_crashed",
    }
    with pytest.raises(EngineDeadError, match="fails at step 2"):
        _ = answer.result
    assert not core.has_work()
    for attempt in (core.step, lambda: core.add_request(request()), lambda: call(core, "resume")):
        with pytest.raises(EngineDeadError, match="fails at step 2"):
            attempt()
    core.submit(request("late"))
    assert core.step().outputs[0].error.code == "engine_crashed"
    assert isinstance(core.failure.__cause__, RuntimeError)
    assert core.shutdown().state is CoreState.DEAD


def test_a_backend_that_cannot_abort_is_dead_and_all_are_told() -> None:
    backend = Scripted()
    core = core_of(backend)
    core.add_request(request("a"))
    core.add_request(request("b"))
    backend.raises["abort_requests"] = OSError("gone")
    assert core.abort_requests(["a"]) == ["a"]
    assert reasons({o.request_id: o for o in core.step().outputs}) == {
        "a": FinishReason.ABORT,
        "b": FinishReason.ERROR,
    }
    with pytest.raises(EngineDeadError, match="gone"):
        core.step()


# -- waiting for the backend -----------------------------------------------------------------------


def test_a_backend_with_a_descriptor_is_waited_for_and_not_polled() -> None:
    core = core_of(GeneratorBackend(lambda _: iter(["x"])))
    assert core.wake_fd() is not None
    core.add_request(EngineCoreRequest("a", prompt="hi"))
    assert core.has_work()
    assert not core.is_ready()
    text = ""
    while core.has_work():
        text += "".join(output.text for output in core.step(30.0).outputs)
    assert text == "x"
    call(core, "pause", mode="keep")
    assert core.wake_fd() is None  # readable for ever, for nobody may collect
    core.shutdown()


def test_a_backend_without_one_is_ready_while_it_has_work() -> None:
    core = core_of()
    assert not core.is_ready()
    core.add_request(request(max_tokens=1))
    assert core.is_ready()
    assert core.wake_fd() is None
    run(core)
    assert not core.is_ready()
