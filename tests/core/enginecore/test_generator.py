from __future__ import annotations

import select
import threading

import pytest

from enginery import GeneratorBackend
from enginery.enginecore import (
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    MockTokenizer,
    SamplingParams,
)
from enginery.errors import ContextLengthExceeded, InvalidRequest, UnsupportedOperation
from support.outputs import by_request

PATIENCE = 30.0


def ask(backend, name="a", prompt="hi", **params) -> None:
    backend.add_request(
        EngineCoreRequest(name, prompt=prompt, sampling_params=SamplingParams(**params))
    )


def collect(backend, *, until=lambda _names: False) -> dict[str, EngineCoreOutput]:
    """What each request gained, as one output, until all have ended (or ``until`` their names)."""
    seen: list[EngineCoreOutput] = []
    while backend.has_work() and not until([output.request_id for output in seen]):
        outputs = backend.step(PATIENCE)
        names = [output.request_id for output in outputs]
        assert len(set(names)) == len(names)
        seen += outputs
    return by_request(seen)


@pytest.fixture
def made():
    """Backends that are shut down at the end, and that leave no thread."""
    backends = []

    def make(generate, *args, **options) -> GeneratorBackend:
        backend = GeneratorBackend(generate, *args, **options)
        backends.append(backend)
        return backend

    yield make
    for backend in backends:
        threads = [piece._thread for piece in backend._threads]
        backend.shutdown()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_the_pieces_joined_are_the_reply(made) -> None:
    backend = made(lambda request: iter(request.prompt.split()))
    ask(backend, prompt="one two three")
    output = collect(backend)["a"]
    assert output.text == "onetwothree"
    assert output.finish_reason is FinishReason.STOP
    assert output.num_output_tokens == 3


def test_a_plain_list_and_an_empty_one_are_replies_too(made) -> None:
    backend = made(lambda request: ["x"] if request.prompt == "hi" else [])
    ask(backend)
    ask(backend, "b", "nothing")
    whole = collect(backend)
    assert [whole[name].text for name in "ab"] == ["x", ""]


def test_a_chat_comes_with_its_messages_and_as_text(made) -> None:
    seen = []

    def generate(request):
        seen.append((request.prompt, request.messages))
        yield "ok"

    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]
    backend = made(generate)
    backend.add_request(EngineCoreRequest("a", messages=messages))
    collect(backend)
    assert seen == [("system: short\nuser: hi\nassistant:", messages)]


def test_a_chat_that_cannot_be_rendered_is_refused_by_the_place_of_its_content(made) -> None:
    backend = made(lambda _: ["x"])
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(InvalidRequest) as caught:
        backend.add_request(EngineCoreRequest("a", messages=[{"role": "user", "content": image}]))
    assert caught.value.param == "messages[0].content"
    assert not backend.has_work()


def test_what_a_generator_raises_ends_its_own_request_alone(made) -> None:
    def generate(request):
        yield "a"
        if request.prompt == "bad":
            raise KeyError("lost")
        yield "b"

    backend = made(generate, slots=2)
    ask(backend, "good", "good")
    ask(backend, "bad", "bad")
    whole = collect(backend)
    assert (whole["good"].text, whole["good"].finish_reason) == ("ab", FinishReason.STOP)
    assert (whole["bad"].text, whole["bad"].finish_reason) == ("a", FinishReason.ERROR)
    assert "lost" in whole["bad"].error.message


@pytest.mark.parametrize(
    ("generate", "word"),
    [
        (lambda _: [1], "must yield strings, got int"),
        (lambda _: [None], "must yield strings, got NoneType"),
        (lambda _: 5, "not iterable"),
        (lambda _: ["\ud800"], "surrogates"),
    ],
    ids=["a number", "none", "no iterator", "no text"],
)
def test_what_is_no_text_is_an_error_that_says_so(made, generate, word) -> None:
    backend = made(generate)
    ask(backend)
    output = collect(backend)["a"]
    assert output.finish_reason is FinishReason.ERROR
    assert word in output.error.message


def test_an_aborted_request_closes_its_generator_at_the_next_yield(made) -> None:
    closed, started = threading.Event(), threading.Event()

    def generate(_request):
        try:
            while True:
                started.set()
                yield "x"
        finally:
            closed.set()

    backend = made(generate)
    ask(backend)
    assert started.wait(PATIENCE)
    assert backend.abort_requests(["a", "b"]) == ["a"]
    assert not backend.has_work()
    assert closed.wait(PATIENCE)
    assert all(output.request_id != "a" for output in backend.step(0.0))


def test_a_slot_stays_taken_until_its_generator_has_really_ended(made) -> None:
    let_go = threading.Event()
    calls = []

    def generate(request):
        calls.append(request.request_id)
        yield "x"
        assert let_go.wait(PATIENCE)
        yield "y"

    backend = made(generate)
    ask(backend, "a")
    collect(backend, until=lambda names: "a" in names)
    backend.abort_requests(["a"])
    ask(backend, "b")
    backend.step(0.0)
    assert calls == ["a"]
    let_go.set()
    assert collect(backend)["b"].text == "xy"
    assert calls == ["a", "b"]


def test_no_more_run_at_once_than_slots_and_the_rest_in_order(made) -> None:
    lock = threading.Lock()
    running, most, order = set(), [0], []

    def generate(request):
        with lock:
            running.add(request.request_id)
            order.append(request.request_id)
            most[0] = max(most[0], len(running))
        yield from "abc"
        with lock:
            running.discard(request.request_id)

    backend = made(generate, slots=1)
    for number in range(6):
        ask(backend, str(number))
    assert len(collect(backend)) == 6
    assert most[0] == 1
    assert order == [str(number) for number in range(6)]


def test_a_request_that_waits_can_be_aborted_and_never_starts(made) -> None:
    let_go = threading.Event()
    calls = []

    def generate(request):
        calls.append(request.request_id)
        assert let_go.wait(PATIENCE)
        yield "x"

    backend = made(generate)
    for name in "abc":
        ask(backend, name)
    assert backend.abort_requests(["b"]) == ["b"]
    let_go.set()
    assert sorted(collect(backend)) == ["a", "c"]
    assert calls == ["a", "c"]


def test_max_tokens_ends_a_generator_that_does_not_look_at_it(made) -> None:
    def generate(_request):
        while True:
            yield "x"

    backend = made(generate)
    ask(backend, max_tokens=5)
    output = collect(backend)["a"]
    assert (output.text, output.finish_reason) == ("xxxxx", FinishReason.LENGTH)
    assert output.num_output_tokens == 5


def test_stop_strings_end_a_generator_that_does_not_look_at_them(made) -> None:
    backend = made(lambda _: iter(["ab", "c</", "end", "> more"]))
    ask(backend, stop="</end>")
    output = collect(backend)["a"]
    assert (output.text, output.stop_reason) == ("abc", "</end>")
    assert output.finish_reason is FinishReason.STOP


def test_what_was_held_back_for_a_stop_string_comes_at_the_end(made) -> None:
    backend = made(lambda _: iter(["ab<", "/e"]))
    ask(backend, stop="</end>")
    assert collect(backend)["a"].text == "ab</e"


def test_a_generator_is_never_far_ahead_of_its_reader(made) -> None:
    produced, ahead = [0], threading.Event()

    def generate(_request):
        while True:
            produced[0] += 1
            if produced[0] == 65:
                ahead.set()
            yield "x"

    backend = made(generate)
    ask(backend, max_tokens=100_000)
    assert ahead.wait(PATIENCE)
    assert produced[0] <= 65  # 64 delivered, one in its hand
    assert backend.step(0.0)[0].text == "x" * 64


def test_the_descriptor_is_readable_exactly_while_there_is_something_to_collect(made) -> None:
    let_go = threading.Event()

    def generate(_request):
        yield "x"
        assert let_go.wait(PATIENCE)
        yield "y"

    backend = made(generate)
    fd = backend.wake_fd()
    assert select.select([fd], [], [], 0)[0] == []
    ask(backend)
    assert select.select([fd], [], [], PATIENCE)[0] == [fd]
    assert backend.step(0.0)[0].text == "x"
    assert select.select([fd], [], [], 0)[0] == []
    let_go.set()
    assert select.select([fd], [], [], PATIENCE)[0] == [fd]
    assert collect(backend)["a"].text == "y"


def test_with_a_tokenizer_tokens_are_counted_and_the_context_is_kept(made) -> None:
    backend = made(lambda _: iter(["abc"] * 10), 1, MockTokenizer(), max_model_len=10)
    assert "tokens" in backend.capabilities.accepts
    with pytest.raises(ContextLengthExceeded):
        ask(backend, "long", "x" * 10)
    backend.add_request(EngineCoreRequest("a", list(b"hey")))
    output = collect(backend)["a"]
    assert (output.num_prompt_tokens, output.num_output_tokens) == (3, 9)
    assert output.finish_reason is FinishReason.LENGTH


def test_without_a_tokenizer_token_ids_are_refused(made) -> None:
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        made(lambda _: []).add_request(EngineCoreRequest("a", [1]))


def test_shutdown_closes_generators_and_leaves_no_descriptor_and_no_thread() -> None:
    closed = threading.Event()

    def generate(_request):
        try:
            while True:
                yield "x"
        finally:
            closed.set()

    backend = GeneratorBackend(generate, slots=2)
    for name in "abc":
        ask(backend, name)
    threads = [piece._thread for piece in backend._threads]
    assert len(threads) == 2
    backend.shutdown()
    backend.shutdown()
    assert closed.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not backend.has_work()
    assert backend._wake._closed


def test_it_has_counts_and_no_other_call(made) -> None:
    backend = made(lambda _: [])
    assert backend.utility("get_stats", {}) == {"running": 0, "waiting": 0}
    with pytest.raises(UnsupportedOperation, match="'sleep'"):
        backend.utility("sleep", {"level": 1})


def test_it_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="slots"):
        GeneratorBackend(lambda _: [], slots=0)
