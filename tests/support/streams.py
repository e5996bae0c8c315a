"""Engines to stream from, in process and in children, and what each says without a stream."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from enginery.enginecore import (
    EngineCoreClient,
    EngineCoreRequest,
    SamplingParams,
    create_client,
)
from enginery.streaming import StreamingConfig, StreamingEngine, TokenFeed, core_source
from support.core_clients import PATIENCE, mock_config

__all__ = ["CLIENTS", "PROMPT", "live_feeds", "plain_reply", "streaming"]

CLIENTS = ["inproc", "sync_mp", "async_mp"]
PROMPT = "Say hello."


@contextmanager
def streaming(
    kind: str, config: StreamingConfig | None = None, backend: str | None = None, **options: Any
) -> Iterator[tuple[StreamingEngine, EngineCoreClient]]:
    """An engine over a client of its own; both are closed afterwards."""
    client = create_client(kind, mock_config(backend, **options))
    try:
        with StreamingEngine(core_source(client), config) as engine:
            yield engine, client
    finally:
        client.shutdown()


def plain_reply(prompt: str = PROMPT, **params: Any) -> tuple[str, list[int]]:
    """Text and token ids of a core without streams."""
    text, ids = "", []
    with create_client("inproc", mock_config()) as client:
        sampling = SamplingParams(**params)
        client.add_request(EngineCoreRequest("plain", prompt=prompt, sampling_params=sampling))
        while client.unfinished:
            for output in client.get_output(PATIENCE).outputs:
                text += output.text
                ids += output.new_token_ids
    return text, ids


def live_feeds(weak: weakref.WeakSet[TokenFeed]) -> int:
    """How many of these are still held by anybody."""
    gc.collect()
    return len(weak)
