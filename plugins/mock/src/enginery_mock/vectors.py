"""Embeddings and rerank: what the mock makes of texts that it does not answer. Pure.

Knows: the fields of ``/v1/embeddings`` (``input``, ``dimensions``, ``encoding_format``) and ``/v1/rerank``
(``query``, ``documents``, ``top_n``, ``return_documents``). Does not know: slots, time or HTTP.

A text's vector is the sum of the vectors of its tokens, of length 1. So the same text and seed give the
same vector, texts that share words are near each other, and a document's relevance is the cosine between
it and the query. Fewer dimensions are the first of them, scaled to length 1 again.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, cast

from enginery import InvalidRequest
from enginery.api import embeddings
from enginery.api.body import DecodedBody
from enginery_mock.tokens import pieces, request_tokens

__all__ = [
    "DIMENSIONS",
    "EMBEDDINGS_PATH",
    "RERANK_PATH",
    "Vectors",
    "embed",
    "embedding_reply",
    "read_vectors",
    "rerank_reply",
]

EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
DIMENSIONS = 64
MAX_DIMENSIONS = 4096


@dataclass(frozen=True, slots=True)
class Vectors:
    """One request, checked. ``longest`` is the most tokens that one text has."""

    prompt_tokens: int
    longest: int
    user: str | None
    body: dict[str, Any]


def embed(text: str | list[int], *, seed: int, dimensions: int = DIMENSIONS) -> list[float]:
    """The vector of a text, or of a list of token ids."""
    sums = [0.0] * dimensions
    for token in (pieces(text.lower()) if isinstance(text, str) else text) or [""]:
        word = token.strip() if isinstance(token, str) else token
        told = hashlib.shake_128(f"{seed} {word}".encode()).digest(dimensions)
        for at, byte in enumerate(told):
            sums[at] += byte - 127.5
    if not any(sums):  # tokens whose vectors cancel out
        sums[0] = 1.0
    length = math.sqrt(math.fsum(value * value for value in sums))
    return [value / length for value in sums]


def read_vectors(path: str, body: DecodedBody) -> Vectors:
    """Check a body for ``path``.

    Raises:
        InvalidRequest: a field is wrong; ``param`` names it.
    """
    if path == RERANK_PATH:
        query, documents = body.get("query"), body.get("documents")
        if not isinstance(query, str):
            raise InvalidRequest("query must be a string", param="query")
        if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
            raise InvalidRequest("documents must be a list of strings", param="documents")
        _count(body, "top_n", most=None)
        lengths = [len(pieces(query)) + len(pieces(text)) for text in documents]
    else:
        if body.get("encoding_format") not in (None, "float", "base64"):
            raise InvalidRequest("encoding_format must be float or base64", param="encoding_format")
        _count(body, "dimensions", most=MAX_DIMENSIONS)
        lengths = [len(pieces(x) if isinstance(x, str) else x) for x in _inputs(body)]
    user = body.get("user")
    return Vectors(
        prompt_tokens=request_tokens(path, body.object),
        longest=max(lengths, default=0),
        user=user if isinstance(user, str) else None,
        body=body.object,
    )


def embedding_reply(wanted: Vectors, *, model: str, seed: int) -> dict[str, Any]:
    """The reply to ``/v1/embeddings``."""
    dimensions = wanted.body.get("dimensions") or DIMENSIONS
    encoding = cast("embeddings.EncodingFormat", wanted.body.get("encoding_format") or "float")
    vectors = [embed(x, seed=seed, dimensions=dimensions) for x in _split(wanted.body["input"])]
    return embeddings.embeddings(
        vectors, model=model, prompt_tokens=wanted.prompt_tokens, encoding_format=encoding
    )


def rerank_reply(wanted: Vectors, *, model: str, seed: int) -> dict[str, Any]:
    """The reply to ``/v1/rerank``."""
    query, documents = embed(wanted.body["query"], seed=seed), wanted.body["documents"]
    scores = [math.fsum(map(_product, query, embed(text, seed=seed))) for text in documents]
    best = sorted(range(len(documents)), key=lambda at: (-scores[at], at))
    shown = documents if wanted.body.get("return_documents") is True else [None] * len(documents)
    results = [
        embeddings.rerank_result(at, scores[at], shown[at])
        for at in best[: wanted.body.get("top_n")]
    ]
    return embeddings.rerank(results, model=model, prompt_tokens=wanted.prompt_tokens)


def _product(left: float, right: float) -> float:
    return left * right


def _inputs(body: DecodedBody) -> list[str | list[int]]:
    given = body.get("input")
    texts = _split(given)
    if given in ("", []) or not all(map(_is_input, texts)):
        raise InvalidRequest(
            "input must be a string, a list of token ids, or a list of these, none empty",
            param="input",
        )
    return texts


def _split(given: Any) -> list[Any]:
    """One input or several, as a list of inputs."""
    if isinstance(given, list) and not all(type(item) is int for item in given):
        return given
    return [given]


def _is_input(text: Any) -> bool:
    ids = isinstance(text, list) and all(type(item) is int for item in text)
    return bool(text) and (isinstance(text, str) or ids)


def _count(body: DecodedBody, name: str, *, most: int | None) -> None:
    value = body.get(name)
    if value is None:
        return
    if type(value) is not int or value < 1 or (most is not None and value > most):
        bound = "" if most is None else f" and at most {most}"
        raise InvalidRequest(f"{name} must be an integer of at least 1{bound}", param=name)
