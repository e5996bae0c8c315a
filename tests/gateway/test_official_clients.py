"""The official clients of OpenAI and Anthropic, sync and async, through the gateway to a mock and to llama.cpp."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from support.gateways import GatewayThread

HELLO: list[Any] = [{"role": "user", "content": "Hello, you"}]
# Random weights never begin a call by themselves; this begins it for them, and it ends as the call ends.
CALLING: list[Any] = [*HELLO, {"role": "assistant", "content": "<tool_call>\n"}]
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "flip", "parameters": SCHEMA}}
MESSAGE_TOOL: Any = {"name": "flip", "input_schema": SCHEMA}
ENGINES = ("mock", "llama.cpp")


@pytest.fixture(scope="module")
def house(tiny_models):
    tiny = {"threads": 1}
    models = {
        "mock": {"engine": "mock", "parallel": 2, "options": {"memory": 1}, "aliases": ["default"]},
        "llama.cpp": {
            "engine": "llama.cpp",
            "context_length": 512,
            "parallel": 2,
            "options": {"model": str(tiny_models / "tiny-chat.gguf"), **tiny},
        },
        "vectors": {
            "engine": "llama.cpp",
            "context_length": 128,
            "options": {"model": str(tiny_models / "tiny-embed.gguf"), "embedding": True, **tiny},
        },
    }
    with GatewayThread(models, together=True) as house:
        yield house


@pytest.fixture
def client(house):
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def later(house):
    async with openai.AsyncOpenAI(
        base_url=f"{house.url}/v1", api_key="any", max_retries=0
    ) as client:
        yield client


@pytest.fixture
def claude(house):
    with anthropic.Anthropic(base_url=house.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude_later(house):
    async with anthropic.AsyncAnthropic(base_url=house.url, api_key="any", max_retries=0) as client:
        yield client


# -- what there is -----------------------------------------------------------------------------------


def test_models_are_listed_and_found_by_alias(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mock", "llama.cpp", "vectors"]
    assert client.models.retrieve("default").id == "mock"


# -- chats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ENGINES)
def test_a_chat_says_the_same_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    ask: Any = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(**ask)
    said = whole.choices[0].message.content
    assert said
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == said
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("model", ENGINES)
async def test_the_async_client_hears_the_same(later: openai.AsyncOpenAI, model: str) -> None:
    ask: Any = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 8}
    whole = await later.chat.completions.create(**ask)
    chunks = [c async for c in await later.chat.completions.create(**ask, stream=True)]
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content


@pytest.mark.parametrize("model", ENGINES)
def test_a_required_tool_is_called_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    ask: Any = {
        "model": model,
        "messages": CALLING,
        "tools": [CHAT_TOOL],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 120,
        "extra_body": {"cache_prompt": False, "seed": 1},  # what it knows already changes roundings
    }
    call, *_ = client.chat.completions.create(**ask).choices[0].message.tool_calls or ()
    assert call.type == "function"
    pieces = [
        piece.function
        for chunk in client.chat.completions.create(**ask, stream=True)
        for piece in chunk.choices[0].delta.tool_calls or ()
        if piece.index == 0 and piece.function is not None
    ]
    assert "".join(piece.name or "" for piece in pieces) == call.function.name == "flip"
    said = "".join(piece.arguments or "" for piece in pieces)
    assert json.loads(said) == json.loads(call.function.arguments)
    assert json.loads(said)["a"] in {True, False}


# -- completions, responses, messages ----------------------------------------------------------------


@pytest.mark.parametrize("model", ENGINES)
def test_a_completion_says_the_same_whole_and_streamed(client: openai.OpenAI, model: str) -> None:
    ask: Any = {"model": model, "prompt": "Once upon", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**ask)
    said = "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True))
    assert whole.choices[0].text == said != ""


@pytest.mark.parametrize("model", ENGINES)
async def test_a_response_says_the_same_whole_and_streamed(
    client: openai.OpenAI, later: openai.AsyncOpenAI, model: str
) -> None:
    ask: Any = {"model": model, "input": "Hello, you", "temperature": 0, "max_output_tokens": 8}
    whole = client.responses.create(**ask)
    assert whole.output_text
    events = [event async for event in await later.responses.create(**ask, stream=True)]
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(said) == whole.output_text
    last = events[-1]
    assert last.type in {"response.completed", "response.incomplete"}
    assert last.response.status == whole.status
    assert last.response.output_text == whole.output_text


@pytest.mark.parametrize("model", ENGINES)
def test_a_message_says_the_same_whole_and_streamed(
    claude: anthropic.Anthropic, model: str
) -> None:
    ask: Any = {"model": model, "messages": HELLO, "max_tokens": 8}
    ask["extra_body"] = {"temperature": 0}  # the client's own argument is gone, engines know it
    whole = claude.messages.create(**ask)
    assert whole.content[0].type == "text"
    assert whole.content[0].text
    with claude.messages.stream(**ask) as stream:
        folded = stream.get_final_message()
    assert folded.content[0].model_dump() == whole.content[0].model_dump()
    assert folded.stop_reason == whole.stop_reason
    assert folded.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("model", ENGINES)
async def test_the_async_anthropic_client_hears_a_message_and_calls_tools(
    claude_later: anthropic.AsyncAnthropic, model: str
) -> None:
    ask: Any = {"model": model, "messages": HELLO, "max_tokens": 120}
    ask["extra_body"] = {"temperature": 0}
    whole = await claude_later.messages.create(**ask)
    async with claude_later.messages.stream(**ask) as stream:
        assert await stream.get_final_text() == whole.content[0].text  # type: ignore[union-attr]  # text it is
    ask.update(tools=[MESSAGE_TOOL], tool_choice={"type": "any"}, messages=CALLING)
    called = await claude_later.messages.create(**ask)
    block, *_ = [block for block in called.content if block.type == "tool_use"]
    assert block.name == "flip"


def test_tokens_of_messages_are_counted(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="mock", messages=HELLO)
    assert counted.input_tokens == 10


@pytest.mark.parametrize("model", ["mock", "vectors"])
async def test_embeddings_come_as_numbers_and_as_base64(
    client: openai.OpenAI, later: openai.AsyncOpenAI, model: str
) -> None:
    ask: Any = {"model": model, "input": ["hello there", "goodbye"]}
    floats = client.embeddings.create(**ask, encoding_format="float")
    packed = await later.embeddings.create(**ask)  # the client asks for base64 by itself
    assert len(floats.data) == 2
    for ours, theirs in zip(floats.data, packed.data, strict=True):
        assert ours.embedding == pytest.approx(theirs.embedding, abs=1e-6)


# -- the same connection, again and again --------------------------------------------------------------


@pytest.mark.parametrize("model", ENGINES)
def test_one_connection_carries_replies_of_every_kind_in_turn(
    client: openai.OpenAI, model: str
) -> None:
    chat: Any = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 4}
    said = client.chat.completions.create(**chat).choices[0].message.content
    for _ in range(3):
        streamed = [c for c in client.chat.completions.create(**chat, stream=True) if c.choices]
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == said
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**{**chat, "model": "nobody"})
        assert client.chat.completions.create(**chat).choices[0].message.content == said
        assert client.models.retrieve(model).id == model
