"""Real vLLM as a server behind the gateway: what clients send and get, one engine with 256 tokens for all tests."""

from __future__ import annotations

import json
import logging
import re
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from enginery import ContextLengthExceeded
from support.gateways import GatewayThread
from support.real_vllm import START, ask_engine, row_of, vllm_model

LIMIT = 256
HELLO: list[Any] = [{"role": "user", "content": "List objects are"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FLIP: Any = {
    "type": "function",
    "function": {"name": "flip", "strict": True, "parameters": SCHEMA},
}
END = 1758
"""The tiny model's ``<|im_end|>``; bytes are their own tokens."""
TEXTS = ("", "a", "0123456789" * 12, "🧑‍🚀" * 9, "\x00\x07\r\n", "<|im_start|>" * 9, "שלום ﷺ")


@pytest.fixture(scope="module")
def house(tiny_llama, family):
    # No CPU has level 1, but vLLM's development mode has its states there, too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enginery_vllm.plugin.levels_of", lambda _: (0, 1))
        more = {"context_length": LIMIT, "sleep_after": 2}
        more["options"] = {
            "sleep": "pause",
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        }
        models = {"tiny": vllm_model(tiny_llama, family, **more)}
        with GatewayThread(models, load_stall=START, sleep_level=1) as house:
            yield house


@pytest.fixture
def client(house):
    with openai.OpenAI(
        base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START
    ) as client:
        yield client


def chat(client: openai.OpenAI, **more: Any) -> Any:
    given = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0} | more
    return client.chat.completions.create(**given)


def test_it_chats_and_the_same_reply_comes_as_a_stream(client) -> None:
    whole = chat(client)
    text = whole.choices[0].message.content
    assert whole.model == "tiny"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    assert text.strip()
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(said) == text
    assert len([piece for piece in said if piece]) > 1
    assert chunks[-1].usage == whole.usage


def test_it_completes(client) -> None:
    def complete(**more: Any) -> Any:
        return client.completions.create(
            model="tiny", prompt="List objects are", max_tokens=9, temperature=0, **more
        )

    whole = complete()
    assert whole.usage.completion_tokens == 9
    streamed = [chunk.choices[0].text for chunk in complete(stream=True)]
    assert "".join(streamed) == whole.choices[0].text


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_prompts_are_counted_as_vllm_itself_counts_them(house, client, text) -> None:
    messages = [{"role": "user", "content": text}]

    async def counted() -> int:
        engine = await house.gateway.manager.ensure_engine("tiny")
        return await engine.estimate_tokens({"messages": messages, "max_tokens": 1})

    assert house.call(counted()) == chat(client, messages=messages, max_tokens=1).usage.total_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_that_is_too_long_is_an_overflow_with_both_numbers(client, stream) -> None:
    long = [{"role": "user", "content": "0123456789 " * 100}]
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    # vLLM stops counting one token after the limit
    assert re.findall(r"\d{3,}", caught.value.message.partition("-")[2]) == ["257", "256"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_vllms_own_words_for_an_overflow_are_understood(house, stream) -> None:
    body = {"model": "tiny", "prompt": "0" * 300, "max_tokens": 1, "stream": stream}
    reply = ask_engine(house, "tiny", "/v1/completions", body)
    assert reply.status == 400
    hooks = house.gateway.manager.registry.hooks("vllm")
    error = hooks.parse_error(reply.status, reply.body)
    assert isinstance(error, ContextLengthExceeded)
    assert error.context_length == LIMIT
    assert error.prompt_tokens == LIMIT + 1  # vLLM stops counting there


def test_routes_that_its_model_has_not_are_refused_clearly(client) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="tiny", input="hello")
    assert caught.value.code == "endpoint_not_supported"
    assert "/v1/embeddings" in caught.value.message


# -- fields ----------------------------------------------------------------------------------------


def test_llama_cpps_names_are_translated(client) -> None:
    short = chat(client, max_tokens=openai.omit, extra_body={"n_predict": 5})
    assert short.usage.completion_tokens == 5

    def penalised(**how: Any) -> str:
        return chat(client, max_tokens=40, extra_body=how).choices[0].message.content

    assert penalised(repeat_penalty=1.8) == penalised(repetition_penalty=1.8)
    assert penalised(repeat_penalty=1.8) != penalised()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_json", SCHEMA),
        ("json_schema", SCHEMA),
        ("guided_choice", ['{"ok":true}', '{"ok":false}']),
        ("guided_regex", r'\{"ok":(true|false)\}'),
        ("grammar", 'root ::= "{\\"ok\\":" ("true" | "false") "}"'),
        ("structured_outputs", {"json": SCHEMA}),
    ],
)
def test_constraints_under_any_name_constrain(client, field, value) -> None:
    said = chat(client, max_tokens=60, extra_body={field: value}).choices[0]
    assert said.finish_reason == "stop"
    assert set(json.loads(said.message.content)) == {"ok"}


def test_what_vllm_would_ignore_in_silence_is_logged_once(client, caplog) -> None:
    with caplog.at_level(logging.WARNING, "enginery.vllm"):
        for _ in range(2):
            chat(client, extra_body={"mirostat": 2})
    told = [record.getMessage() for record in caplog.records if record.name == "enginery.vllm"]
    assert len(told) == 1
    assert "tiny: vLLM ignores 'mirostat'" in told[0]


def test_a_tool_that_is_named_is_called(client) -> None:
    choice: Any = {"type": "function", "function": {"name": "flip"}}
    # vLLM lets calls have any spaces, and random weights would go on with them: the end gets a push
    push = {str(ord("}")): 100, str(END): 50}
    said = chat(client, max_tokens=100, tools=[FLIP], tool_choice=choice, logit_bias=push).choices[
        0
    ]
    assert said.message.tool_calls, said
    call = said.message.tool_calls[0]
    assert call.function.name == "flip"
    assert set(json.loads(call.function.arguments)) == {"ok"}


def test_a_tool_that_may_be_called_need_not_be(client) -> None:
    said = chat(client, tools=[FLIP], tool_choice="auto").choices[0].message
    assert said.content
    assert not said.tool_calls


# -- sleeping and keys -----------------------------------------------------------------------------


async def test_idle_it_is_put_to_sleep_and_a_request_wakes_it(house, client, eventually) -> None:
    chat(client)
    pid = row_of(house, "tiny")["pid"]
    await eventually(lambda: row_of(house, "tiny")["state"] == "asleep", 60)
    assert chat(client).usage.completion_tokens == 12
    assert row_of(house, "tiny")["pid"] == pid
    assert row_of(house, "tiny")["restarts"] == 0


def test_who_has_no_key_of_this_start_cannot_use_the_engine(house, client) -> None:
    chat(client)
    address = row_of(house, "tiny")["address"]
    for path in ("/v1/models", "/tokenize", "/sleep?level=1", "/metrics", "/collective_rpc"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{address}{path}", timeout=30)
        caught.value.close()
        assert caught.value.code == 401, path


def test_clients_of_the_gateway_cannot_command_the_engine(house, client) -> None:
    chat(client)
    for path in ("sleep?level=1", "collective_rpc", "reset_prefix_cache"):
        asked = urllib.request.Request(f"{house.url}/upstream/tiny/{path}", b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(asked, timeout=30)
        caught.value.close()
        assert caught.value.code == 403, path
