from __future__ import annotations

import base64
import struct

from openai.types import CreateEmbeddingResponse

from enginery.api import embeddings


def test_embeddings_are_what_the_sdk_expects() -> None:
    reply = embeddings.embeddings([[0.5, -1.0], [0.0, 1.0]], model="m", prompt_tokens=4)
    read = CreateEmbeddingResponse.model_validate(reply, strict=True)
    assert [row.embedding for row in read.data] == [[0.5, -1.0], [0.0, 1.0]]
    assert [row.index for row in read.data] == [0, 1]
    assert read.usage.total_tokens == 4


def test_base64_holds_the_same_numbers() -> None:
    reply = embeddings.embeddings(
        [[0.5, -1.0]], model="m", prompt_tokens=1, encoding_format="base64"
    )
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert struct.unpack("<2f", raw) == (0.5, -1.0)


def test_a_rerank_reply_shows_documents_where_they_were_asked_for() -> None:
    results = [embeddings.rerank_result(1, 0.75, "text"), embeddings.rerank_result(0, 0.25)]
    reply = embeddings.rerank(results, model="m", prompt_tokens=9)
    assert reply["results"] == [
        {"index": 1, "relevance_score": 0.75, "document": {"text": "text"}},
        {"index": 0, "relevance_score": 0.25},
    ]
    assert reply["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
