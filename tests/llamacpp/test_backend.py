"""llama.cpp in this process: real text, ids and ends, through the clients that an application uses."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from enginery import ContextLengthExceeded, EngineStartFailed, InvalidRequest, Variant
from enginery.enginecore import (
    AsyncMPClient,
    ClientConfig,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    InprocClient,
    SamplingParams,
)
from enginery.enginecore.failures import failure_to_error
from enginery.enginecore.served import Served
from enginery_llamacpp.backend import LlamaCppBackend
from enginery_llamacpp.plugin import DEMO_MODEL

PATIENCE = 30.0
CHAT = [{"role": "user", "content": "What is a list?"}]


def variant(parallel: int = 2, context: int = 1024, **options: Any) -> Variant:
    return Variant(
        "docs",
        engine_type="llama.cpp",
        context_length=context,
        parallel=parallel,
        options={"model": str(DEMO_MODEL), "threads": 1, "in_process": True, **options},
    )


def asked(
    name: str, tokens: int | None = 8, prompt: Any = None, **params: Any
) -> EngineCoreRequest:
    sampling = SamplingParams(**{"max_tokens": tokens, "temperature": 0.0, **params})
    if prompt is None:
        return EngineCoreRequest(name, messages=CHAT, sampling_params=sampling)
    form = "prompt" if isinstance(prompt, str) else "prompt_token_ids"
    return EngineCoreRequest(name, **{form: prompt}, sampling_params=sampling)


@pytest.fixture(scope="module")
def backend() -> Iterator[LlamaCppBackend]:
    made = LlamaCppBackend(variant())
    yield made
    made.shutdown()


def collected(backend: LlamaCppBackend, *names: str) -> dict[str, list[EngineCoreOutput]]:
    found: dict[str, list[EngineCoreOutput]] = {name: [] for name in names}
    deadline = time.monotonic() + PATIENCE
    while not all(outputs and outputs[-1].finished for outputs in found.values()):
        assert time.monotonic() < deadline
        for output in backend.step(0.1):
            found[output.request_id].append(output)
    return found


def busy_slots(backend: LlamaCppBackend) -> int:
    return sum(slot["is_processing"] for slot in backend._ask("GET", "/slots"))


def text_of(outputs: list[EngineCoreOutput]) -> str:
    return "".join(output.text for output in outputs)


def test_it_says_what_the_model_can(backend) -> None:
    able = backend.capabilities
    assert (able.max_model_len, able.max_num_seqs, able.vocab_size) == (1024, 2, 2024)
    assert able.accepts == {"tokens", "text", "messages"}


def test_a_reply_has_its_text_its_ids_and_its_end(backend) -> None:
    backend.add_request(asked("a", 8))
    (outputs,) = collected(backend, "a").values()
    ids = [token for output in outputs for token in output.new_token_ids]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[-1].num_output_tokens == len(ids) == 8
    assert outputs[-1].num_prompt_tokens == len(backend.utility("tokenize", {"messages": CHAT}))
    assert backend.utility("detokenize", {"tokens": ids}) == text_of(outputs)


def test_a_stop_string_and_the_models_own_end_are_both_a_stop(backend) -> None:
    backend.add_request(asked("whole", None))
    (whole,) = collected(backend, "whole").values()
    assert whole[-1].finish_reason is FinishReason.STOP
    text = text_of(whole)
    stop = text[5:9]
    backend.add_request(asked("cut", None, stop=stop))
    (cut,) = collected(backend, "cut").values()
    assert cut[-1].finish_reason is FinishReason.STOP
    assert text_of(cut) == text[: text.index(stop)]


def test_the_same_prompt_as_text_and_as_ids_gets_the_same_reply(backend) -> None:
    ids = backend.utility("tokenize", {"prompt": "A list is"})
    backend.add_request(asked("text", 6, "A list is"))
    (as_text,) = collected(backend, "text").values()
    backend.add_request(asked("ids", 6, ids))
    (as_ids,) = collected(backend, "ids").values()
    assert text_of(as_text) == text_of(as_ids) != ""


def test_log_probabilities_come_where_they_are_asked_for(backend) -> None:
    backend.add_request(asked("a", 4, logprobs=0))
    (outputs,) = collected(backend, "a").values()
    found = [value for output in outputs for value in output.logprobs or ()]
    assert len(found) == 4
    assert all(value <= 0 for value in found)


def test_more_requests_than_slots_wait_and_are_all_answered(backend) -> None:
    names = [f"many-{number}" for number in range(7)]
    for name in names:
        backend.add_request(asked(name, 5))
    assert backend.utility("get_stats", {}) == {"running": 2, "waiting": 5}
    found = collected(backend, *names)
    assert {outputs[-1].num_output_tokens for outputs in found.values()} == {5}


def test_an_abort_frees_the_slot_at_the_next_token(backend) -> None:
    for name in ("long-1", "long-2"):
        backend.add_request(asked(name, None, ignore_eos=True))
    deadline = time.monotonic() + PATIENCE
    while not backend.step(0.1):
        assert time.monotonic() < deadline
    assert backend.abort_requests(["long-1", "long-2", "nobody"]) == ["long-1", "long-2"]
    assert not backend.has_work()
    while busy_slots(backend) or backend.utility("get_stats", {})["running"]:
        assert time.monotonic() < deadline
        assert backend.step(0.01) == []
    backend.add_request(asked("next", 3))
    assert collected(backend, "next")["next"][-1].num_output_tokens == 3


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(backend) -> None:
    backend.add_request(asked("a", 8, [65] * 1030))
    (outputs,) = collected(backend, "a").values()
    assert outputs[-1].finish_reason is FinishReason.ERROR
    error = failure_to_error(outputs[-1].error)
    assert isinstance(error, ContextLengthExceeded)
    assert (error.prompt_tokens, error.context_length) == (1030, 1024)


def test_ids_outside_the_vocabulary_end_their_request_alone(backend) -> None:
    backend.add_request(asked("bad", 8, [99_999]))
    backend.add_request(asked("good", 2))
    found = collected(backend, "bad", "good")
    assert isinstance(failure_to_error(found["bad"][-1].error), InvalidRequest)
    assert found["good"][-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("params", [{"min_tokens": 2}, {"stop_token_ids": (7,)}])
def test_what_llama_cpp_cannot_do_is_refused_by_name(params, backend) -> None:
    with pytest.raises(InvalidRequest) as caught:
        backend.add_request(asked("a", 8, **params))
    assert caught.value.param in params


def test_the_programs_own_signal_handlers_stay(backend) -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("ours"))
    try:
        other = LlamaCppBackend(variant(1, 256))
        other.shutdown()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["ours"]


def test_a_model_that_is_not_there_is_a_start_that_failed() -> None:
    with pytest.raises(EngineStartFailed, match="docs/default"):
        LlamaCppBackend(variant(model="/no/such/model.gguf"))


def test_the_in_process_client_streams_it() -> None:
    config = ClientConfig(backend=LlamaCppBackend, options={"variant": variant()})
    with InprocClient(config) as client:
        client.add_request(asked("a", 8))
        outputs: list[EngineCoreOutput] = []
        while client.unfinished:
            outputs += client.get_output(PATIENCE).outputs
        client.add_request(asked("long", None, ignore_eos=True))
        assert client.get_output(PATIENCE).outputs[0].text, "before its end"
        assert client.abort_requests(["long"]) == ["long"]
    ids = [token for output in outputs for token in output.new_token_ids]
    assert len(ids) == outputs[-1].num_output_tokens == 8
    assert text_of(outputs)


async def test_a_core_of_its_own_finds_the_plugin_and_aborts_in_it() -> None:
    async with AsyncMPClient(Served.of(variant(1)).config()) as client:
        await client.add_request_async(asked("long", None, ignore_eos=True))
        first = await client.get_output_async(PATIENCE)
        assert first.outputs[0].new_token_ids
        assert await client.abort_requests_async(["long"]) == ["long"]
        await client.add_request_async(asked("next", 5))
        outputs = [first.outputs[0]]
        while client.unfinished:
            outputs += (await client.get_output_async(PATIENCE)).outputs
    ends = {output.request_id: output.finish_reason for output in outputs if output.finished}
    assert ends == {"long": FinishReason.ABORT, "next": FinishReason.LENGTH}
    said = [output for output in outputs if output.request_id == "next"]
    assert sum(len(output.new_token_ids) for output in said) == 5
    assert text_of(said)
