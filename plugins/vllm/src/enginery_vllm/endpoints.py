"""Which routes a variant of vLLM serves.

Knows: that vLLM's routes follow from what its model does. Does not know: the model. What the options and features leave
open is offered, and vLLM has the last word. Source: ``vllm/entrypoints/launchers/api_server/routers.py`` of 0.32.
"""

from __future__ import annotations

from enginery import Variant
from enginery_vllm.options import options_of
from enginery_vllm.requests import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
)

__all__ = ["endpoints_of"]

_CHAT = (CHAT, RESPONSES, MESSAGES, COUNT)
_ALWAYS = ("/tokenize", "/detokenize", "/v1/models")
_IN_PROCESS = (CHAT, COMPLETIONS, *_ALWAYS)


def endpoints_of(variant: Variant) -> tuple[str, ...]:
    """The routes.

    A model without a chat template had better say ``features: [completions]``; a pooling model that only embeds
    ``features: [embeddings]``.
    """
    options, features = options_of(variant.options), variant.features or frozenset()
    if options.in_process:
        return _IN_PROCESS
    if options.runner == "pooling":
        embeds = "embeddings" in features or "rerank" not in features
        ranks = "rerank" in features or "embeddings" not in features
        return (
            *((EMBEDDINGS,) if embeds else ()),
            *((RERANK, SCORE) if ranks else ()),
            *("/pooling", "/classify", *_ALWAYS),
        )
    chats = "chat" in features or "completions" not in features
    return (*(_CHAT if chats else ()), COMPLETIONS, *_ALWAYS)
