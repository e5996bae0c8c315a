"""vLLM in this process, as a `Backend`: what it says, what it refuses, and what it frees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from enginery import ContextLengthExceeded, InvalidRequest, UnsupportedOperation, Variant
from enginery.enginecore import (
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    InprocClient,
    SamplingParams,
)
from enginery_vllm.backend import VllmBackend

# vLLM and torch warn of each other while they load, and nobody here can change it
pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT = 256
PATIENCE = 60.0
CHAT = [{"role": "user", "content": "What is a list?"}]


@pytest.fixture(scope="module")
def backend(tiny_llama) -> Iterator[VllmBackend]:
    variant = Variant(
        "tiny",
        engine_type="vllm",
        context_length=LIMIT,
        parallel=4,
        options={
            "model": str(tiny_llama),
            "dtype": "bfloat16",
            "enforce_eager": True,
            "kv_cache_gib": 0.25,
            "in_process": True,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        before = dict(os.environ)
        made = VllmBackend(variant)
        assert {k: v for k, v in os.environ.items() if k.startswith("VLLM_ENABLE")} == {
            k: v for k, v in before.items() if k.startswith("VLLM_ENABLE")
        }
    yield made
    made.shutdown()


def asked(name: str = "a", tokens: int | None = 8, prompt: Any = "A list is", **params: Any):
    more = {"eos_token_id": params.pop("eos")} if "eos" in params else {}
    sampling = SamplingParams(**{"max_tokens": tokens, "temperature": 0.0, **params})
    forms = {str: "prompt", list: "prompt_token_ids"}
    form = "messages" if prompt is CHAT else forms[type(prompt)]
    return EngineCoreRequest(name, **{form: prompt}, sampling_params=sampling, **more)


def run(backend: VllmBackend, *requests: EngineCoreRequest) -> dict[str, list[EngineCoreOutput]]:
    for request in requests:
        backend.add_request(request)
    found: dict[str, list[EngineCoreOutput]] = {request.request_id: [] for request in requests}
    for _ in range(2000):
        if not backend.has_work():
            break
        for output in backend.step(0.0):
            found[output.request_id].append(output)
    assert all(outputs[-1].finished for outputs in found.values())
    return found


def text_of(outputs: list[EngineCoreOutput]) -> str:
    return "".join(output.text for output in outputs)


def ids_of(outputs: list[EngineCoreOutput]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def test_it_says_what_the_model_can(backend) -> None:
    able = backend.capabilities
    assert (able.max_model_len, able.max_num_seqs) == (LIMIT, 4)
    assert able.accepts == {"tokens", "text", "messages"}
    assert able.gives_tokens
    assert able.gives_text
    assert able.prefix_cache
    assert able.vocab_size > 500
    assert able.sleep_levels == ()  # no CPU has sleep mode


def test_each_token_comes_as_it_is_made(backend) -> None:
    (outputs,) = run(backend, asked(tokens=8, prompt=CHAT)).values()
    assert [len(output.new_token_ids) for output in outputs] == [1] * 8
    last = outputs[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.num_output_tokens == 8
    assert last.num_prompt_tokens == len(backend.utility("tokenize", {"messages": CHAT}))
    assert text_of(outputs)
    assert backend.utility("detokenize", {"tokens": ids_of(outputs)}) == text_of(outputs)


def test_text_and_its_tokens_are_the_same_prompt(backend) -> None:
    ids = backend.utility("tokenize", {"prompt": "A list is"})
    found = run(backend, asked("text"), asked("ids", prompt=ids))
    assert ids_of(found["text"]) == ids_of(found["ids"])


def test_a_batch_gives_what_each_gives_alone(backend) -> None:
    prompts = {f"r{n}": f"Number {n} is" for n in range(7)}  # more than run at once
    alone = {k: ids_of(run(backend, asked(k, prompt=v))[k]) for k, v in prompts.items()}
    together = run(backend, *(asked(k, prompt=v) for k, v in prompts.items()))
    assert {len(outputs) for outputs in together.values()} == {8}
    # numerics of a batch may differ from those of one, so only first tokens must agree
    assert {k: ids_of(v)[0] for k, v in together.items()} == {k: v[0] for k, v in alone.items()}


def test_a_seed_repeats_a_reply_and_minus_one_is_one(backend) -> None:
    params = {"temperature": 1.0, "tokens": 12, "ignore_eos": True}
    for seed in (5, -1):
        first, second = (ids_of(run(backend, asked(seed=seed, **params))["a"]) for _ in "ab")
        assert first == second


def test_a_stop_string_ends_it_and_is_told(backend) -> None:
    text = text_of(run(backend, asked(tokens=12, ignore_eos=True))["a"])
    stop = text[4:7]
    (outputs,) = run(backend, asked(tokens=12, ignore_eos=True, stop=stop)).values()
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert outputs[-1].stop_reason == stop
    assert text_of(outputs) == text[: text.index(stop)]
    (kept,) = run(
        backend,
        asked(tokens=12, ignore_eos=True, stop=stop, include_stop_str_in_output=True),
    ).values()
    assert text_of(kept) == text[: text.index(stop) + len(stop)]


def test_a_stop_token_ends_it_and_is_among_the_ids(backend) -> None:
    ids = ids_of(run(backend, asked(tokens=6, prompt=CHAT, ignore_eos=True))["a"])
    (outputs,) = run(backend, asked(tokens=6, prompt=CHAT, stop_token_ids=(ids[2],))).values()
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert outputs[-1].stop_reason == ids[2]
    assert ids_of(outputs) == ids[: ids.index(ids[2]) + 1]


def test_without_a_limit_the_context_is_the_limit(backend) -> None:
    prompt = [5] * (LIMIT - 6)
    (outputs,) = run(backend, asked(tokens=None, prompt=prompt, ignore_eos=True)).values()
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[-1].num_output_tokens == 6


def test_log_probabilities_come_where_they_are_asked_for(backend) -> None:
    (outputs,) = run(backend, asked(tokens=4, logprobs=2)).values()
    found = [value for output in outputs for value in output.logprobs or ()]
    assert len(found) == 4
    assert all(value <= 0 for value in found)
    assert all(output.logprobs is None for output in run(backend, asked(tokens=4))["a"])


def test_a_prompt_that_was_there_before_comes_from_the_cache(backend) -> None:
    prompt = list(range(40, 40 + 200))
    assert backend.utility("reset_prefix_cache", {})
    cold, warm, salted = (
        run(backend, request)["a"][-1].num_cached_tokens
        for request in (
            asked(prompt=prompt),
            asked(prompt=prompt),
            EngineCoreRequest("a", prompt_token_ids=prompt, cache_salt="other"),
        )
    )
    assert (cold, warm, salted) == (0, 128, 0)  # whole blocks of 128
    assert backend.utility("reset_prefix_cache", {})
    assert run(backend, asked(prompt=prompt))["a"][-1].num_cached_tokens == 0


@pytest.mark.parametrize(
    ("prompt", "count"),
    [([5] * LIMIT, LIMIT), ([5] * 9000, 9000), ("list " * 300, None), ("list " * 30000, None)],
)
def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(prompt, count, backend) -> None:
    with pytest.raises(ContextLengthExceeded, match=rf"has \d+ tokens.* {LIMIT} fit") as caught:
        backend.add_request(asked(prompt=prompt))
    assert caught.value.context_length == LIMIT
    if count is None:
        assert caught.value.prompt_tokens > LIMIT
    else:
        assert caught.value.prompt_tokens == count
    assert not backend.has_work()


def test_a_chat_that_is_too_long_is_counted_to_its_end(backend) -> None:
    chat = [{"role": "user", "content": "word " * 400}]
    with pytest.raises(ContextLengthExceeded) as caught:
        backend.add_request(EngineCoreRequest("a", messages=chat))
    assert caught.value.param == "messages"
    assert caught.value.prompt_tokens == len(backend.utility("tokenize", {"messages": chat}))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3.0}, "temperature"),
        ({"logprobs": 50}, "logprobs"),
        ({"stop_token_ids": (999_999,)}, "stop_token_ids"),
        ({"prompt": [999_999]}, "prompt_token_ids"),
        ({"eos": 3}, "eos_token_id"),
    ],
)
def test_what_vllm_refuses_is_the_requests_error_and_names_the_field(more, param, backend) -> None:
    with pytest.raises(InvalidRequest) as caught:
        backend.add_request(asked(**more))
    assert caught.value.param == param
    assert not backend.has_work()
    assert run(backend, asked(tokens=2))["a"][-1].num_output_tokens == 2


def test_an_abort_frees_the_blocks_at_once(backend) -> None:
    for name in ("long-1", "long-2"):
        backend.add_request(asked(name, None, ignore_eos=True))
    while not backend.step(0.0):
        pass
    stats = backend.utility("get_stats", {})
    assert (stats["running"], stats["waiting"]) == (2, 0)
    assert stats["kv_cache_usage"] > 0
    assert not backend.utility("reset_prefix_cache", {})  # they are in use
    assert backend.abort_requests(["long-1", "nobody", "long-2"]) == ["long-1", "long-2"]
    assert not backend.has_work()
    assert backend.utility("get_stats", {}) == {"running": 0, "waiting": 0, "kv_cache_usage": 0.0}
    again = run(backend, asked("long-1", tokens=3))  # the id is free
    assert again["long-1"][-1].num_output_tokens == 3


def test_running_requests_lose_no_token_when_the_cache_is_reset_under_them(backend) -> None:
    whole = ids_of(run(backend, asked(tokens=20, ignore_eos=True))["a"])
    backend.add_request(asked(tokens=20, ignore_eos=True))
    found: list[int] = []
    while backend.has_work():
        found += [token for output in backend.step(0.0) for token in output.new_token_ids]
        if len(found) == 7:
            assert backend.utility("reset_prefix_cache", {"reset_running_requests": True})
    assert len(found) == 20
    assert found[:8] == whole[:8]


def test_the_higher_priority_goes_first(backend) -> None:
    for n in range(4):  # all that run at once
        backend.add_request(asked(f"first-{n}", 12, ignore_eos=True))
    backend.step(0.0)
    low, high = asked("low", 4, ignore_eos=True), asked("high", 4, ignore_eos=True)
    low.priority, high.priority = -1, 3
    backend.add_request(low)
    backend.add_request(high)
    ended: list[str] = []
    while backend.has_work():
        ended += [output.request_id for output in backend.step(0.0) if output.finished]
    assert ended.index("high") < ended.index("low")


def test_tokens_are_counted_as_vllm_counts_them(backend) -> None:
    tokens = backend.utility("tokenize", {"prompt": "List objects are"})
    assert backend.utility("detokenize", {"tokens": tokens}) == "List objects are"
    with pytest.raises(InvalidRequest, match="vocabulary"):
        backend.utility("detokenize", {"tokens": [9_999_999]})
    with pytest.raises(InvalidRequest, match="role"):
        backend.utility("tokenize", {"messages": ["x"]})


def test_it_answers_how_it_is_and_warms_up(backend) -> None:
    backend.utility("check_health", {})
    backend.utility("execute_dummy_batch", {})
    with pytest.raises(UnsupportedOperation, match="collective_rpc"):
        backend.utility("collective_rpc", {})


class Kept:
    """The backend for a core that must not end it."""

    def __init__(self, backend: VllmBackend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def shutdown(self) -> None:
        """Later."""


def test_the_in_process_client_drives_it(backend) -> None:
    with InprocClient(engine_core=EngineCore(Kept(backend))) as client:
        client.add_request(asked("a", 8, prompt=CHAT))
        client.add_request(asked("bad", prompt="list " * 300))
        outputs: list[EngineCoreOutput] = []
        while client.unfinished:
            outputs += client.get_output(PATIENCE).outputs
        client.pause("keep")
        client.add_request(asked("later", 2))
        assert client.get_stats()["held"] == 1
        client.sleep(0, "keep")
        assert client.is_sleeping()
        assert client.wake_up()
        with pytest.raises(UnsupportedOperation, match="sleeps at level 0, not at 1"):
            client.sleep(1)
        while client.unfinished:
            outputs += client.get_output(PATIENCE).outputs
        assert client.reset_prefix_cache()
    ends = {output.request_id: output.finish_reason for output in outputs if output.finished}
    assert ends == {
        "a": FinishReason.LENGTH,
        "bad": FinishReason.ERROR,
        "later": FinishReason.LENGTH,
    }


async def test_the_in_process_client_can_be_awaited(backend) -> None:
    async with InprocClient(engine_core=EngineCore(Kept(backend))) as client:
        await client.add_request_async(asked("a", 4))
        outputs: list[EngineCoreOutput] = []
        while client.unfinished:
            outputs += (await client.get_output_async(PATIENCE)).outputs
    assert len(ids_of(outputs)) == 4
