from __future__ import annotations

import pstats
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.enginecore import (
    EngineCoreOutput,
    EngineCoreRequest,
    Executor,
    FinishReason,
    KVLedger,
    MockExecutor,
    ModelRunnerOutput,
    NativeBackend,
    SamplingParams,
    SimpleScheduler,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import (
    ContextLengthExceeded,
    EngineBusy,
    InvalidRequest,
    UnsupportedOperation,
)
from support.outputs import by_request
from support.properties import steady


def ask(backend, name, prompt=None, **params) -> None:
    given = (
        {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt or [1, 2]}
    )
    backend.add_request(EngineCoreRequest(name, **given, sampling_params=SamplingParams(**params)))


def run(backend, most=2000) -> dict[str, EngineCoreOutput]:
    """Everything each request gained, as one output."""
    seen: list[EngineCoreOutput] = []
    for _ in range(most):
        if not backend.has_work():
            return by_request(seen)
        seen += backend.step(0.0)
    raise AssertionError("it does not come to an end")


def test_the_same_seed_prompt_and_place_give_the_same_token() -> None:
    replies = []
    for _ in range(2):
        backend = create_backend(text=False, seed=3)
        ask(backend, "a", [1, 2, 3], max_tokens=20)
        ask(backend, "b", [1, 2, 4], max_tokens=20)
        ask(backend, "c", [1, 2, 3], max_tokens=20, seed=9)
        replies.append({name: o.new_token_ids for name, o in run(backend).items()})
    assert replies[0] == replies[1]
    assert len({tuple(tokens) for tokens in replies[0].values()}) == 3
    other = create_backend(text=False, seed=4)
    ask(other, "a", [1, 2, 3], max_tokens=20)
    assert run(other)["a"].new_token_ids != replies[0]["a"]


@settings(steady, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 25), st.integers(1, 30)), min_size=1, max_size=8),
    st.integers(4, 40),
    st.integers(1, 3),
    st.data(),
)
def test_a_crowded_cache_resets_and_sleep_change_no_token(asked, blocks, many, data) -> None:
    def replies(disturb, **options) -> dict[str, list[int]]:
        backend = create_backend(
            text=False, max_model_len=16, block_size=4, tokens_per_step=many, **options
        )
        for number, (prompt, most) in enumerate(asked):
            ask(backend, str(number), [number] * min(prompt, 15), max_tokens=most)
        got: dict[str, list[int]] = {}
        while backend.has_work():
            if disturb:
                match data.draw(st.sampled_from(["step", "step", "reset", "sleep"])):
                    case "reset":
                        assert backend.utility(
                            "reset_prefix_cache", {"reset_running_requests": True}
                        )
                    case "sleep":
                        backend.utility("sleep", {"level": 1})
                        assert backend.utility("wake_up", {"tags": None})
                    case _:
                        pass
            for output in backend.step(0.0):
                got.setdefault(output.request_id, []).extend(output.new_token_ids)
        return got

    calm = replies(disturb=False)
    crowded = {"num_blocks": blocks, "max_tokens": 8, "max_batch_size": 4}
    assert replies(disturb=True, **crowded) == calm
    assert replies(disturb=True, **crowded, prefix_caching=False) == calm


def test_text_and_chats_are_encoded_and_outputs_have_text() -> None:
    backend = create_backend()
    assert backend.capabilities.accepts == {"tokens", "text", "messages"}
    backend.add_request(
        EngineCoreRequest(
            "chat", messages=[{"role": "user", "content": [{"type": "text", "text": "hé"}]}]
        )
    )
    ask(backend, "text", "user: hé\nassistant:")
    replies = run(backend)
    assert replies["chat"].text == replies["text"].text != ""
    assert replies["chat"].num_prompt_tokens == len("user: hé\nassistant:".encode())


def test_a_stop_string_ends_the_reply_and_frees_its_blocks() -> None:
    backend = create_backend()
    ask(backend, "long", "hi", max_tokens=200)
    words = run(backend)["long"].text
    stop = words.split()[10]
    ask(backend, "short", "hi", max_tokens=200, stop=stop)
    output = run(backend)["short"]
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, stop)
    assert output.text == words[: words.index(stop)]
    assert output.num_output_tokens == len(output.new_token_ids) < 200
    assert backend.scheduler.kv.num_used == 0
    ask(backend, "kept", "hi", max_tokens=200, stop=stop, include_stop_str_in_output=True)
    assert run(backend)["kept"].text.endswith(stop)


def test_without_a_tokenizer_text_and_stop_strings_are_refused() -> None:
    backend = create_backend(text=False)
    with pytest.raises(InvalidRequest, match="token ids"):
        ask(backend, "a", "hi")
    with pytest.raises(InvalidRequest) as caught:
        ask(backend, "a", [1], stop="x")
    assert caught.value.param == "stop"
    assert not backend.has_work()


def test_a_token_outside_the_vocabulary_and_a_prompt_too_long_are_refused() -> None:
    backend = create_backend(max_model_len=32)
    with pytest.raises(InvalidRequest, match="999999"):
        ask(backend, "a", [999999])
    with pytest.raises(ContextLengthExceeded):
        ask(backend, "a", "x" * 32)
    assert not backend.has_work()


def test_aborting_frees_everything_that_a_request_held() -> None:
    backend = create_backend()
    ask(backend, "a", "hello")
    backend.step(0.0)
    assert backend.abort_requests(["a", "b"]) == ["a"]
    assert not backend.has_work()
    assert backend._texts == {}
    assert backend.scheduler.kv.num_used == 0


def test_a_thousand_requests_leave_no_state_in_the_executor() -> None:
    backend = create_backend(text=False)
    for number in range(1000):
        ask(backend, str(number), [number], max_tokens=2)
    run(backend)
    ask(backend, "last", [1], max_tokens=2)
    backend.step(0.0)
    assert set(backend.executor._starts) == {"last"}
    assert backend.scheduler.kv.num_used == 1


@pytest.mark.parametrize("level", [1, 2])
def test_asleep_nothing_runs_and_awake_it_goes_on(level) -> None:
    backend = create_backend(text=False)
    backend.utility("sleep", {"level": level})
    with pytest.raises(EngineBusy, match="kv_cache and weights"):
        backend.utility("execute_dummy_batch", {})
    assert backend.utility("wake_up", {"tags": ["weights"]}) is False
    assert backend.utility("wake_up", {"tags": ["kv_cache"]}) is True
    backend.utility("execute_dummy_batch", {})


class Plain(Executor):
    """The least that an executor must have."""

    def execute_model(self, work):
        return ModelRunnerOutput([[5] for _ in work.scheduled_requests])


def test_an_executor_of_one_method_is_enough() -> None:
    backend = NativeBackend(SimpleScheduler(KVLedger(16)), Plain())
    ask(backend, "a", [1, 2], max_tokens=3)
    assert run(backend)["a"].new_token_ids == [5, 5, 5]
    assert backend.capabilities.sleep_levels == ()
    with pytest.raises(UnsupportedOperation):
        backend.utility("sleep", {"level": 1})
    with pytest.raises(UnsupportedOperation, match="Plain"):
        Plain().sleep(1)
    with pytest.raises(UnsupportedOperation, match="Plain"):
        Plain().wake_up(None)
    backend.utility("check_health", {})
    backend.utility("execute_dummy_batch", {})
    backend.shutdown()
    backend.shutdown()


def test_an_unknown_call_is_unsupported() -> None:
    with pytest.raises(UnsupportedOperation, match="'fly'"):
        create_backend().utility("fly", {})


def test_a_profile_holds_the_steps_that_were_asked_for(tmp_path) -> None:
    backend = create_backend(text=False)
    ask(backend, "a", max_tokens=50)
    path = backend.utility("profile", {"prefix": str(tmp_path / "p"), "max_iterations": 3})
    with pytest.raises(InvalidRequest, match="is active"):
        backend.utility("profile", {})
    for _ in range(5):
        backend.step(0.0)
    calls = {name: stat[0] for (_, _, name), stat in pstats.Stats(path).stats.items()}
    assert calls["execute_model"] == 3
    with pytest.raises(InvalidRequest, match="no profile"):
        backend.utility("profile", {"is_start": False})


def test_a_profile_that_was_not_stopped_is_written_at_shutdown(tmp_path) -> None:
    backend = create_backend(text=False)
    with pytest.raises(InvalidRequest, match="no directory"):
        backend.utility("profile", {"prefix": str(tmp_path / "none" / "p")})
    with pytest.raises(InvalidRequest, match="max_iterations"):
        backend.utility("profile", {"max_iterations": 0})
    path = backend.utility("profile", {"prefix": str(tmp_path / "p")})
    backend.shutdown()
    assert pstats.Stats(path).total_calls >= 0


def test_steps_take_the_time_that_was_asked_for() -> None:
    waits: list[float] = []
    backend = create_backend(
        text=False, step_ms=2.0, prefill_us_per_token=100.0, sleep=waits.append
    )
    ask(backend, "a", list(range(10)), max_tokens=3)
    run(backend)
    assert waits == pytest.approx([0.003, 0.002, 0.002])


def test_the_asked_step_fails_and_the_asked_step_hangs() -> None:
    backend = create_backend(text=False, fail_at_step=2)
    ask(backend, "a", max_tokens=5)
    backend.step(0.0)
    with pytest.raises(RuntimeError, match="step 2"):
        backend.step(0.0)

    class Enough(Exception):
        pass

    naps: list[float] = []

    def nap(seconds) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise Enough

    backend = create_backend(text=False, hang_at_step=1, sleep=nap)
    ask(backend, "a")
    with pytest.raises(Enough):
        backend.step(0.0)


@pytest.mark.parametrize(
    ("options", "word"), [({"vocab": (5, 4)}, "vocab"), ({"tokens_per_step": 0}, "tokens_per_step")]
)
def test_options_of_the_mock_that_cannot_be_are_refused(options, word) -> None:
    with pytest.raises(ValueError, match=word):
        MockExecutor(**options)


def test_the_asked_step_ends_the_process_at_once() -> None:
    program = """
from enginery.enginecore import EngineCore, EngineCoreRequest
from enginery.enginecore.mock import create_backend

core = EngineCore(create_backend(text=False, crash_at_step=2))
core.add_request(EngineCoreRequest("a", [1, 2]))
for number in range(9):
    core.step()
    print(number, flush=True)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (70, "0\n")


def test_an_id_that_is_used_again_at_once_gets_the_tokens_of_its_own_prompt() -> None:
    calm = create_backend(text=False)
    ask(calm, "a", [4, 5, 6], max_tokens=5)
    backend = create_backend(text=False)
    ask(backend, "a", [1, 2, 3], max_tokens=5)
    backend.step(0.0)
    backend.abort_requests(["a"])
    ask(backend, "a", [4, 5, 6], max_tokens=5)
    assert run(backend)["a"].new_token_ids == run(calm)["a"].new_token_ids
