"""One streamed chat with an engine, and how fast it came, in words.

Knows: which of a stream's numbers a person wants. Does not know: how tokens come (`streaming`), or who prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginery.engine.client import EngineClient
from enginery.streaming import StreamingConfig, StreamingEngine, TokenStreamIterator, http_source
from enginery.values import JSONObject

__all__ = ["streamed_chat", "timing"]

SHORTEST_RATE = 0.002
"""Seconds below which tokens came in one piece, and their rate would say nothing."""


@contextmanager
def streamed_chat(
    client: EngineClient,
    messages: list[JSONObject],
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> Iterator[TokenStreamIterator]:
    """A stream of the reply; leaving the ``with`` before its end aborts it. None: as the engine does by itself."""
    with StreamingEngine(http_source(client), StreamingConfig()) as engine:
        stream = engine.generate_stream(messages, temperature, max_tokens)
        with stream:
            yield stream


def timing(stream: TokenStreamIterator) -> str:
    """Tokens, time to the first one and the rate of the others, as far as they are known."""
    first, rate = stream.time_to_first_token, stream.tokens_per_second
    if first is None:
        return "no tokens"
    said = [f"{stream.total_tokens} tokens", f"first token after {1000 * first:.0f} ms"]
    if rate is not None and (stream.total_tokens - 1) / rate >= SHORTEST_RATE:
        said.append(f"{rate:.0f} tokens/s")
    return ", ".join(said)
