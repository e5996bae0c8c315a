"""One client, one address, two engines that take turns: vLLM, llama.cpp, vLLM."""

from __future__ import annotations

from typing import Any

import openai

from enginery_llamacpp import LlamaCppPlugin
from support.gateways import GatewayThread
from support.real_vllm import START, row_of, vllm_model

HELLO: list[Any] = [{"role": "user", "content": "List objects are"}]


def ask(client: openai.OpenAI, model: str, *, stream: bool) -> str:
    """The reply, one way or the other, in its own model's name."""
    asked: Any = {"model": model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    if not stream:
        reply = client.chat.completions.create(**asked)
        assert reply.model == model
        return reply.choices[0].message.content or ""
    text = ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        assert chunk.model == model
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    return text


def test_vllm_and_llama_cpp_take_turns_for_one_client(tiny_llama, family) -> None:
    models = {
        "tiny": vllm_model(tiny_llama, family, context_length=256),
        "pydoc": {"engine": "llama.cpp", **(LlamaCppPlugin().demo_variant() or {})},
    }
    with (
        GatewayThread(models, load_stall=START) as house,
        openai.OpenAI(
            base_url=f"{house.url}/v1", api_key="any", max_retries=0, timeout=START
        ) as client,
    ):
        first = ask(client, "tiny", stream=False)
        assert first.strip()
        assert "Lists are mutable" in ask(client, "pydoc", stream=True)
        assert row_of(house, "tiny")["state"] == "stopped"
        assert family.processes() == []
        assert ask(client, "tiny", stream=True) == first
        assert row_of(house, "pydoc")["state"] == "stopped"
        rows = house.gateway.manager.status()
        assert [(row.starts, row.restarts) for row in rows] == [(2, 0), (1, 0)]
    assert family.processes() == []
