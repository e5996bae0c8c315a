from __future__ import annotations

import pytest

from enginery.enginecore import (
    Capabilities,
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    GeneratorBackend,
    SamplingParams,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    EngineBusy,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    InvalidRequest,
    UnsupportedOperation,
)
from support.outputs import by_request


class Answers:
    """Takes a call's reply; it must come exactly once."""

    def __init__(self) -> None:
        self.got: list[tuple] = []

    def __call__(self, result, error) -> None:
        self.got.append((result, error))

    @property
    def result(self):
        ((result, error),) = self.got
        if error is not None:
            raise error
        return result


def call(core, method, **args):
    """A call whose answer comes at once."""
    answer = Answers()
    core.utility(method, args, answer)
    return answer.result


def later(core, method, **args) -> Answers:
    answer = Answers()
    core.utility(method, args, answer)
    return answer


def core_of(backend=None, **options) -> EngineCore:
    return EngineCore(backend or create_backend(text=False, **options), log_stats=False)


def request(name="a", tokens=(1, 2, 3), **params) -> EngineCoreRequest:
    return EngineCoreRequest(name, list(tokens), sampling_params=SamplingParams(**params))


def run(core, most=1000) -> dict[str, EngineCoreOutput]:
    """Step until nothing is left; everything each request gained, as one output."""
    seen: list[EngineCoreOutput] = []
    for _ in range(most):
        if not core.has_work():
            return by_request(seen)
        seen += core.step(0.0).outputs
    raise AssertionError("it does not come to an end")


def reasons(whole) -> dict[str, FinishReason | None]:
    return {name: output.finish_reason for name, output in whole.items()}


class Scripted:
    """A backend that says what a test tells it."""

    capabilities = Capabilities(100, accepts=frozenset({"tokens"}), utilities=("greet",))

    def __init__(self) -> None:
        self.live: list[str] = []
        self.says: list[list[EngineCoreOutput]] = []
        self.raises: dict[str, Exception] = {}
        self.calls: list[tuple] = []

    def _maybe(self, where) -> None:
        if where in self.raises:
            raise self.raises[where]

    def add_request(self, request) -> None:
        self._maybe("add_request")
        self.live.append(request.request_id)

    def abort_requests(self, ids) -> list[str]:
        self._maybe("abort_requests")
        self.calls.append(("abort", list(ids)))
        self.live = [each for each in self.live if each not in ids]
        return list(ids)

    def step(self, timeout) -> list[EngineCoreOutput]:
        self._maybe("step")
        return self.says.pop(0) if self.says else []

    def has_work(self) -> bool:
        return bool(self.live or self.says)

    def wake_fd(self) -> None:
        return None

    def utility(self, method, args):
        self._maybe(method)
        if method == "greet":
            return f"hello {args['name']}"
        if method == "get_stats":
            return {"own": 5, "text": "not a number"}
        raise UnsupportedOperation(method)

    def shutdown(self) -> None:
        self._maybe("shutdown")
        self.calls.append(("shutdown",))


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
