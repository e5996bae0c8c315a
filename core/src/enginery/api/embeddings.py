"""Replies of ``/v1/embeddings`` and ``/v1/rerank``.

Knows: OpenAI's shape of embeddings (https://platform.openai.com/docs/api-reference/embeddings) and the
shape of rerank that llama.cpp, vLLM and Jina share. Does not know: models.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import Literal

from enginery.values import JSONObject

__all__ = ["EncodingFormat", "embeddings", "rerank", "rerank_result"]

EncodingFormat = Literal["float", "base64"]


def embeddings(
    vectors: Iterable[Sequence[float]],
    *,
    model: str,
    prompt_tokens: int,
    encoding_format: EncodingFormat = "float",
) -> JSONObject:
    """One vector for each input, in their order; base64 is of little-endian 32-bit floats."""
    encode = _base64 if encoding_format == "base64" else list
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": _usage(prompt_tokens),
    }


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def rerank_result(index: int, score: float, document: str | None = None) -> JSONObject:
    """How well the document ``index`` answers the query; ``document`` where its text was asked for."""
    result: JSONObject = {"index": index, "relevance_score": score}
    if document is not None:
        result["document"] = {"text": document}
    return result


def rerank(results: Iterable[JSONObject], *, model: str, prompt_tokens: int) -> JSONObject:
    """The reply to ``/v1/rerank``; the best result comes first."""
    return {
        "object": "list",
        "results": list(results),
        "model": model,
        "usage": _usage(prompt_tokens),
    }


def _usage(prompt_tokens: int) -> JSONObject:
    return {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
