"""vLLM inside an engine core of ours: through the clients, and behind the core server as an engine of the gateway."""

from __future__ import annotations

from typing import Any

import openai
import psutil
import pytest

from enginery import EngineDeadError, EngineStartFailed, Variant
from enginery.enginecore import (
    AsyncMPClient,
    ClientConfig,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
    SyncMPClient,
)
from enginery.enginecore.served import Served, plain
from support.gateways import GatewayThread
from support.real_vllm import START, ask_engine, row_of, vllm_model

PATIENCE = 120.0
LIMIT = 256
CHAT: list[Any] = [{"role": "user", "content": "What is a list?"}]


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def variant(model: Any, **options: Any) -> Variant:
    given = {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_gib": 0.25, "in_process": True}
    return Variant(
        "tiny",
        engine_type="vllm",
        context_length=LIMIT,
        parallel=4,
        options={"model": str(model), **given, **options},
    )


def asked(name: str, tokens: int | None, prompt: str = "A list is", **params: Any):
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, **params)
    return EngineCoreRequest(name, prompt=prompt, sampling_params=sampling)


def texts(outputs: list[EngineCoreOutput]) -> dict[str, str]:
    found: dict[str, str] = {}
    for output in outputs:
        found[output.request_id] = found.get(output.request_id, "") + output.text
    return found


def ends(outputs: list[EngineCoreOutput]) -> dict[str, FinishReason | None]:
    return {each.request_id: each.finish_reason for each in outputs if each.finished}


def test_a_sync_client_drives_it_in_a_child(tiny_llama) -> None:
    with SyncMPClient(Served.of(variant(tiny_llama)).config()) as client:
        assert client.capabilities.max_model_len == LIMIT
        for name in ("a", "b"):
            client.add_request(asked(name, 8))
        client.add_request(asked("too-long", 8, "list " * 300))
        outputs: list[EngineCoreOutput] = []
        while client.unfinished:
            outputs += client.get_output(PATIENCE).outputs
        assert ends(outputs) == {
            "a": FinishReason.LENGTH,
            "b": FinishReason.LENGTH,
            "too-long": FinishReason.ERROR,
        }
        (refused,) = [each for each in outputs if each.request_id == "too-long"]
        assert refused.error.kind == "ContextLengthExceeded"
        assert refused.error.context_length == LIMIT
        said = texts(outputs)
        assert said["a"] == said["b"] != ""
        tokens = client.call_utility("tokenize", {"prompt": "A list is"})
        assert client.call_utility("detokenize", {"tokens": tokens}) == "A list is"
        assert client.reset_prefix_cache()
        client.execute_dummy_batch()
        client.check_health()
        pid = client.pid
    assert pid


async def test_an_async_client_aborts_in_it_and_lets_requests_stand_still(tiny_llama) -> None:
    async with AsyncMPClient(Served.of(variant(tiny_llama)).config()) as client:
        await client.add_request_async(asked("long", None))
        outputs = (await client.get_output_async(PATIENCE)).outputs
        assert outputs[0].new_token_ids
        await client.pause_async("keep")
        await client.add_request_async(asked("held", 4))
        assert (await client.get_stats_async())["held"] == 1
        assert await client.abort_requests_async(["long"]) == ["long"]
        await client.sleep_async(0, "keep")
        assert await client.wake_up_async()
        while client.unfinished:
            outputs += (await client.get_output_async(PATIENCE)).outputs
        stats = await client.get_stats_async()
        assert (stats["running"], stats["kv_cache_usage"]) == (0, 0)
    assert ends(outputs) == {"long": FinishReason.ABORT, "held": FinishReason.LENGTH}


def test_a_model_that_fails_in_a_step_ends_the_core_with_its_last_words(tiny_llama) -> None:
    config = ClientConfig(
        backend="support.vllm_cores:failing",
        options={"variant": plain(variant(tiny_llama)), "at_step": 5},
    )
    with SyncMPClient(config) as client:
        client.add_request(asked("a", None))
        outputs: list[EngineCoreOutput] = []
        while client.unfinished:
            outputs += client.get_output(PATIENCE).outputs
        assert len([each for each in outputs if each.new_token_ids]) == 4
        assert outputs[-1].finish_reason is FinishReason.ERROR
        assert "the device is lost" in outputs[-1].error.message
        with pytest.raises(EngineDeadError, match="the device is lost"):
            client.check_health()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_args": ("--no-such-flag",)}, "in process vLLM has no --no-such-flag"),
        ({"extra_args": ("--block-size", "many")}, "vLLM refuses its arguments: .*block-size"),
        ({"dtype": "float16", "load_format": "no-such"}, "vLLM did not load the model"),
        ({"sleep": True}, "did not load the model: Sleep mode is not supported"),  # on a CPU
    ],
)
def test_what_it_cannot_start_with_is_told(tiny_llama, options, said) -> None:
    with pytest.raises(EngineStartFailed, match=said):
        SyncMPClient(Served.of(variant(tiny_llama, **options)).config())


@pytest.fixture(scope="module")
def house(tiny_llama, family):
    more = {"context_length": LIMIT, "options": {"in_process": True, "extra_args": ()}}
    models = {"tiny": vllm_model(tiny_llama, family, **more)}
    with GatewayThread(models, load_stall=START) as house:
        yield house


@pytest.fixture
def client(house):
    with openai.OpenAI(
        base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START
    ) as client:
        yield client


def test_the_gateway_starts_it_behind_the_core_server_and_it_chats(client, family) -> None:
    given: Any = {"model": "tiny", "messages": CHAT, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**given)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 8
    with client.chat.completions.create(**given, stream=True) as stream:
        parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert len(parts) > 4  # as they are made
    titles = [" ".join(process.cmdline()) for process in family.processes()]
    assert any("enginery.enginecore.process" in title for title in titles)
    assert not any("VLLM::" in title for title in titles)  # no processes of vLLM's own


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(client) -> None:
    with pytest.raises(openai.BadRequestError, match=rf"\d+ tokens.*{LIMIT}") as caught:
        client.completions.create(model="tiny", prompt="list " * 300, max_tokens=4)
    assert caught.value.code == "context_length_exceeded"


def test_token_ids_and_their_text_come_through(house, client) -> None:
    told = ask_engine(house, "tiny", "/tokenize", {"prompt": "A list is"}).json()
    assert told["max_model_len"] == LIMIT
    body = {"tokens": told["tokens"]}
    assert ask_engine(house, "tiny", "/detokenize", body).json() == {"prompt": "A list is"}
    given = {"model": "tiny", "prompt": told["tokens"], "max_tokens": 4, "temperature": 0}
    reply = client.completions.create(**given, extra_body={"return_token_ids": True}).choices[0]
    ids = reply.token_ids
    assert len(ids) == 4
    text = ask_engine(house, "tiny", "/detokenize", {"tokens": ids}).json()["prompt"]
    assert text == reply.text


async def test_a_core_that_is_killed_is_noticed_and_the_next_request_is_served(
    house, client, family, eventually
) -> None:
    given: Any = {"model": "tiny", "prompt": "A list is", "max_tokens": 4, "temperature": 0}
    before = client.completions.create(**given).choices[0].text
    old = family.processes()
    (core,) = [each for each in old if "enginery.enginecore.process" in each.cmdline()]
    core.kill()
    _, alive = psutil.wait_procs(old, PATIENCE)
    assert not alive
    await eventually(lambda: row_of(house, "tiny")["state"] == "failed", PATIENCE)
    assert client.completions.create(**given).choices[0].text == before
