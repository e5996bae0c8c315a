"""The fields that `enginery_vllm.requests` takes for vLLM's are those of the installed one.

What is missing there is warned of by mistake, what is there too much is ignored in silence.
"""

from __future__ import annotations

from importlib import import_module

import pytest

from enginery_vllm.requests import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    KNOWN_FIELDS,
    MESSAGES,
    RERANK,
    RESPONSES,
    SCORE,
)

pytestmark = pytest.mark.filterwarnings("ignore")
"""vLLM's imports warn of much that is not ours."""

CLASSES = {
    CHAT: ("openai.chat_completion", ["ChatCompletionRequest"]),
    COMPLETIONS: ("openai.completion", ["CompletionRequest"]),
    RESPONSES: ("openai.responses", ["ResponsesRequest"]),
    MESSAGES: ("anthropic", ["AnthropicMessagesRequest"]),
    COUNT: ("anthropic", ["AnthropicCountTokensRequest"]),
    EMBEDDINGS: ("pooling.embed", ["EmbeddingCompletionRequest", "EmbeddingChatRequest"]),
    RERANK: ("pooling.scoring", ["RerankRequest"]),
    SCORE: (
        "pooling.scoring",
        [
            "ScoreDataRequest",
            "ScoreQueriesDocumentsRequest",
            "ScoreQueriesItemsRequest",
            "ScoreTextRequest",
        ],
    ),
}


@pytest.mark.parametrize("path", sorted(KNOWN_FIELDS))
def test_the_table_holds_vllms_own_fields(path) -> None:
    package, names = CLASSES[path]
    protocol = import_module(f"vllm.entrypoints.{package}.protocol")
    fields = set().union(*(getattr(protocol, name).model_fields for name in names))
    assert KNOWN_FIELDS[path] == fields
