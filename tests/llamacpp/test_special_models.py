"""Models that do one thing only, under the real manager: embeddings, reranking, no chat template."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from enginery import EndpointNotSupported, EngineManager, Settings
from enginery.engine.transport import open_session
from enginery_llamacpp.validation import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES

RERANK = "/v1/rerank"
USER = {"role": "user", "content": "hi"}
WIDTH = 64


@pytest.fixture
async def serve(models):
    """``await serve("tiny-embed", embedding=True)``: a call that posts to that model."""
    settings = Settings(defaults={"min_residency": 0, "shutdown_timeout": 0.1})
    async with EngineManager(settings) as manager, open_session() as session:

        async def start(name: str, features: list[str] | None = None, **options: Any):
            config = {
                "options": {"model": str(models / f"{name}.gguf"), "threads": 1, **options},
                "context_length": 512,
            }
            if features is not None:
                config["features"] = features
            client = await manager.ensure_engine(name, config, "llama.cpp")

            async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
                async with await client.forward_request(session, path, body) as response:
                    assert response.status == 200, await response.text()
                    reply: dict[str, Any] = await response.json()
                    return reply

            return post

        yield start


def length(vector: list[float]) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


async def test_an_embedding_model_gives_one_vector_for_each_input(serve) -> None:
    post = await serve("tiny-embed", embedding=True)
    texts = ["a list of objects", "another text", "a list of objects"]
    reply = await post(EMBEDDINGS, {"input": texts})
    assert reply["object"] == "list"
    assert [row["index"] for row in reply["data"]] == [0, 1, 2]
    first, second, third = [row["embedding"] for row in reply["data"]]
    assert len(first) == WIDTH
    assert length(first) == pytest.approx(1.0, abs=1e-4)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 3


async def test_vectors_come_in_base64_too(serve) -> None:
    post = await serve("tiny-embed", embedding=True)
    plain = (await post(EMBEDDINGS, {"input": "hi"}))["data"][0]["embedding"]
    packed = await post(EMBEDDINGS, {"input": "hi", "encoding_format": "base64"})
    found = struct.unpack(f"<{WIDTH}f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(found) == pytest.approx(plain, abs=1e-4)


async def test_a_reranking_model_scores_every_document_and_sorts_them(serve) -> None:
    post = await serve("tiny-rerank", reranking=True)
    asked = {"query": "what is a list", "documents": ["lists are mutable", "an integer", "a class"]}
    results = (await post(RERANK, asked))["results"]
    assert sorted(row["index"] for row in results) == [0, 1, 2]
    scores = [row["relevance_score"] for row in results]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    best = (await post(RERANK, {**asked, "top_n": 1}))["results"]
    assert [row["index"] for row in best] == [results[0]["index"]]


@pytest.mark.parametrize(
    ("name", "options", "has"),
    [
        ("tiny-embed", {"embedding": True}, EMBEDDINGS),
        ("tiny-rerank", {"reranking": True}, RERANK),
    ],
)
async def test_a_model_that_cannot_chat_refuses_and_says_what_it_can(
    serve, name, options, has
) -> None:
    post = await serve(name, **options)
    for path in (CHAT, COMPLETIONS, MESSAGES):
        with pytest.raises(EndpointNotSupported, match=has):
            await post(path, {"messages": [USER]})


async def test_without_a_template_llama_cpp_chats_in_chatml(serve) -> None:
    post = await serve("tiny-no-template")
    written = await post("/apply-template", {"messages": [USER]})
    assert written["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    reply = await post(CHAT, {"messages": [USER], "max_tokens": 3, "ignore_eos": True})
    assert reply["usage"]["completion_tokens"] == 3


async def test_a_model_without_a_template_can_be_kept_from_chatting(serve) -> None:
    post = await serve("tiny-no-template", features=["completions"])
    with pytest.raises(EndpointNotSupported, match=COMPLETIONS):
        await post(CHAT, {"messages": [USER]})
    reply = await post(COMPLETIONS, {"prompt": "hi", "max_tokens": 3, "ignore_eos": True})
    assert reply["usage"]["completion_tokens"] == 3
