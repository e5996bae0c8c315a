"""The wire formats: decoding request bodies, server-sent events, replies and errors in OpenAI's shape.

Import from the submodules; this package imports none of them, so that a server started as a child
pays only for what it uses:

* `enginery.api.aggregate`: folds a stream into one reply (`enginery.api.pieces`: how chunks add up),
* `enginery.api.anthropic`: messages and their events,
* `enginery.api.body`: the one strict decoder of request bodies,
* `enginery.api.embeddings`: replies of embeddings and rerank,
* `enginery.api.endings`: how each API says that a stream is over, and what a reply cost,
* `enginery.api.openai`: replies, chunks and error bodies,
* `enginery.api.responses`: OpenAI's responses and their events,
* `enginery.api.sse`: bytes to events and back.
"""

__all__ = [
    "aggregate",
    "anthropic",
    "body",
    "embeddings",
    "endings",
    "openai",
    "pieces",
    "responses",
    "sse",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'enginery.api' has no attribute {name!r}")
    from importlib import import_module

    return import_module(f"enginery.api.{name}")
