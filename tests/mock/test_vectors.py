"""Embeddings and rerank: deterministic, and near where texts share words."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enginery_mock.vectors import DIMENSIONS, embed

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"


@pytest.fixture
def client(mock: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mock.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def cosine(left: list[float], right: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


@example([77255, 7832871], 1)  # they cancel out
@given(st.text() | st.lists(st.integers(0, 2**31), min_size=1), st.integers(1, 300))
def test_a_vector_has_length_one_and_as_many_dimensions_as_asked(text: Any, many: int) -> None:
    vector = embed(text, seed=0, dimensions=many)
    assert len(vector) == many
    assert math.isclose(cosine(vector, vector), 1.0)


def test_texts_that_share_words_are_nearer() -> None:
    near, far = "the old bridge", "quantum marmalade today"
    asked = embed("an old bridge", seed=0)
    assert cosine(asked, embed(near, seed=0)) > cosine(asked, embed(far, seed=0)) + 0.3
    assert embed(near, seed=0) != embed(near, seed=1)


def test_embeddings_answer_the_official_client_in_both_encodings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="m", input=["Hello, you", "Hello"])  # base64 inside
    plain = client.embeddings.create(
        model="m", input=["Hello, you", "Hello"], encoding_format="float"
    )
    assert [row.index for row in packed.data] == [0, 1]
    assert packed.usage.prompt_tokens == packed.usage.total_tokens == 4
    for one, other in zip(packed.data, plain.data, strict=True):
        assert len(one.embedding) == DIMENSIONS
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.data[0].embedding == embed("Hello, you", seed=0)


async def test_embeddings_answer_the_official_async_client(mock: Any) -> None:
    async with openai.AsyncOpenAI(base_url=f"{mock.url}/v1", api_key="any") as client:
        reply = await client.embeddings.create(model="m", input=[1, 2, 3], dimensions=8)
    assert len(reply.data) == 1
    assert len(reply.data[0].embedding) == 8
    assert reply.usage.prompt_tokens == 3


def test_base64_is_of_little_endian_floats(mock: Any) -> None:
    _, reply = mock.get(EMBEDDINGS, {"input": "Hi", "encoding_format": "base64", "dimensions": 4})
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert list(struct.unpack("<4f", raw)) == pytest.approx(embed("Hi", seed=0, dimensions=4))


def test_the_same_text_has_the_same_vector_in_another_process(mock: Any, start: Any) -> None:
    ask = {"input": "Hello, you"}
    assert start().wait_until_ready().get(EMBEDDINGS, ask) == mock.get(EMBEDDINGS, ask)


def test_reranking_puts_the_nearest_document_first(mock: Any) -> None:
    documents = ["marmalade", "the old bridge", "a bridge"]
    ask = {"query": "old bridge", "documents": documents, "return_documents": True}
    _, reply = mock.get(RERANK, ask)
    assert [result["index"] for result in reply["results"]] == [1, 2, 0]
    scores = [result["relevance_score"] for result in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    assert reply["results"][0]["document"] == {"text": "the old bridge"}
    assert reply["usage"] == {"prompt_tokens": 2 + 2 + 3 + 2, "total_tokens": 9}
    _, first = mock.get(RERANK, {**ask, "top_n": 1, "return_documents": False})
    assert first["results"] == [{"index": 1, "relevance_score": scores[0]}]


def test_what_is_longer_than_the_context_is_refused_with_its_numbers(mock: Any) -> None:
    status, reply = mock.get(EMBEDDINGS, {"input": ["Hi", "word " * 200]})
    assert status == 400
    assert reply["error"]["type"] == "exceed_context_size_error"
    assert mock.get(EMBEDDINGS, {"input": ["word " * 40] * 9})[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": ""}, "input"),
        (EMBEDDINGS, {"input": []}, "input"),
        (EMBEDDINGS, {"input": ["a", 1]}, "input"),
        (EMBEDDINGS, {"input": [[]]}, "input"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": 99_999}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        (EMBEDDINGS, {"input": "a", "encoding_format": []}, "encoding_format"),
        (RERANK, {"documents": ["a"]}, "query"),
        (RERANK, {"query": "a", "documents": "a"}, "documents"),
        (RERANK, {"query": "a", "documents": [1]}, "documents"),
        (RERANK, {"query": "a", "documents": ["a"], "top_n": True}, "top_n"),
    ],
)
def test_wrong_fields_are_refused_by_name(mock: Any, path: str, body: Any, param: str) -> None:
    status, reply = mock.get(path, body)
    assert (status, reply["error"]["param"]) == (400, param)


def test_a_slot_is_held_and_counted(mock: Any) -> None:
    before = mock.report()["finished"]
    mock.get(RERANK, {"query": "a", "documents": []}, x_request_id="r-5")
    report = mock.report()
    assert (report["finished"], report["ids"][-1]) == (before + 1, "r-5")
