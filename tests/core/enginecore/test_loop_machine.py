"""Any interleaving of requests, aborts, pauses, sleep, resets, a drain, a shutdown and a dying backend."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from enginery.enginecore import (
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import EngineryError
from support.properties import steady

MODES = st.sampled_from(["abort", "wait", "keep"])
LEVELS = st.integers(0, 2)
TAGS = st.none() | st.lists(st.sampled_from(["weights", "kv_cache", "scheduling"]), max_size=3)


def tokens_of(number, most) -> list[int]:
    """What the mock says to this prompt when nothing disturbs it."""
    core = EngineCore(create_backend(text=False, max_model_len=32, block_size=4))
    core.add_request(asked(number, most))
    got: list[int] = []
    while core.has_work():
        for output in core.step().outputs:
            got += output.new_token_ids
    return got


def asked(number, most) -> EngineCoreRequest:
    prompt = [number % 3] * (1 + number % 11)
    return EngineCoreRequest(
        str(number), prompt, sampling_params=SamplingParams(max_tokens=most), arrival_time=1.0
    )


class Loop(RuleBasedStateMachine):
    @initialize(dies_at=st.integers(0, 60) | st.just(0))
    def start(self, dies_at) -> None:
        self.core = EngineCore(
            create_backend(
                text=False,
                max_model_len=32,
                max_batch_size=3,
                max_tokens=8,
                block_size=4,
                num_blocks=10,
                fail_at_step=dies_at,
            ),
            log_stats=False,
        )
        self.accepted: dict[str, int] = {}
        self.endings: dict[str, EngineCoreOutput] = {}
        self.got: dict[str, list[int]] = {}
        self.answers: list[list[tuple]] = []
        self.seq = 0

    def take(self, batch) -> None:
        if batch.outputs:
            self.seq += 1
        assert batch.seq == self.seq
        for output in batch.outputs:
            name = output.request_id
            assert name in self.accepted
            assert name not in self.endings
            self.got.setdefault(name, []).extend(output.new_token_ids)
            if output.finished:
                self.endings[name] = output

    def call(self, method, **args) -> None:
        answer: list[tuple] = []
        self.answers.append(answer)
        self.core.utility(method, args, lambda result, error: answer.append((result, error)))

    @rule(most=st.integers(1, 12))
    def add(self, most) -> None:
        name = str(len(self.accepted))
        try:
            self.core.add_request(asked(len(self.accepted), most))
        except EngineryError:
            assert self.core.state >= CoreState.DRAINING
        else:
            self.accepted[name] = most

    @rule(most=st.integers(1, 12))
    def submit(self, most) -> None:
        self.core.submit(asked(len(self.accepted), most))
        self.accepted[str(len(self.accepted))] = most
        if self.core.state is CoreState.CLOSED:
            self.step()

    @rule()
    def step(self) -> None:
        over = self.core.state >= CoreState.CLOSED
        try:
            self.take(self.core.step())
        except EngineryError:
            assert over

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def abort(self, data) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.accepted)), max_size=3))
        aborted = self.core.abort_requests(names)
        assert set(aborted) <= set(names) - set(self.endings)

    @rule(mode=MODES, clear=st.booleans())
    def pause(self, mode, clear) -> None:
        self.call("pause", mode=mode, clear_cache=clear)

    @rule()
    def resume(self) -> None:
        self.call("resume")

    @rule(level=LEVELS, mode=MODES)
    def sleep(self, level, mode) -> None:
        self.call("sleep", level=level, mode=mode)

    @rule(tags=TAGS)
    def wake_up(self, tags) -> None:
        self.call("wake_up", tags=tags)

    @rule(force=st.booleans())
    def reset(self, force) -> None:
        self.call("reset_prefix_cache", reset_running_requests=force)

    @rule(method=st.sampled_from(["execute_dummy_batch", "get_stats", "check_health", "is_paused"]))
    def look(self, method) -> None:
        self.call(method)

    @rule(sure=st.integers(0, 9))
    def drain(self, sure) -> None:
        if sure == 0:
            self.core.drain()

    @rule(sure=st.integers(0, 9))
    def shutdown(self, sure) -> None:
        if sure == 0:
            self.take(self.core.shutdown())

    @invariant()
    def no_call_is_answered_twice(self) -> None:
        assert all(len(answer) <= 1 for answer in self.answers)

    @invariant()
    def what_stands_still_needs_no_step(self) -> None:
        if self.core.controls.frozen and self.core.state < CoreState.DRAINING:
            assert self.core.has_work() == self.core._requests.has_outputs

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        for _ in range(3000):
            if (
                self.core.state in {CoreState.PAUSED, CoreState.SLEEPING}
                and not self.core.has_work()
            ):
                self.call("wake_up")
            if not self.core.has_work():
                break
            self.take(self.core.step())
        self.take(self.core.shutdown())
        assert set(self.endings) == set(self.accepted)
        assert all(len(answer) == 1 for answer in self.answers)
        for name, most in self.accepted.items():
            whole = tokens_of(int(name), most)
            got = self.got.get(name, [])
            assert got == whole[: len(got)]
            if self.endings[name].finish_reason is FinishReason.LENGTH:
                assert got == whole


Loop.TestCase.settings = settings(steady, max_examples=80, stateful_step_count=50)
test_every_request_ends_once_and_every_call_is_answered_once = Loop.TestCase
