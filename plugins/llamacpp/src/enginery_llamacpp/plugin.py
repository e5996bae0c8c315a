"""The hooks: what Enginery asks about llama.cpp, answered by the modules beside this one.

Knows: which module answers which hook. Does not know: the answers. One object per process; the one
thing that it remembers is which ignored fields it has already warned about.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from enginery import (
    Backend,
    Command,
    Endpoint,
    EngineRequest,
    EngineryError,
    ResponseTransform,
    RunningEngine,
    TokenEstimate,
    Variant,
    hookimpl,
)
from enginery_llamacpp.binary import find_program
from enginery_llamacpp.command import build_command
from enginery_llamacpp.errors import parse_error
from enginery_llamacpp.options import LlamaCppOptions, options_of
from enginery_llamacpp.requests import adapt
from enginery_llamacpp.streams import prefers_stream, summed_usage
from enginery_llamacpp.tokens import count_in_process, count_tokens, estimate_tokens
from enginery_llamacpp.validation import validate

__all__ = ["API_VERSION", "LlamaCppPlugin"]

API_VERSION = (1, 0)

log = logging.getLogger("enginery.llamacpp")

_CHAT = (
    "/v1/chat/completions",
    "/v1/chat/completions/input_tokens",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/apply-template",
)
_COMPLETION = ("/v1/completions", "/infill")
_IN_PROCESS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/tokenize",
    "/detokenize",
)
_ALWAYS = ("/tokenize", "/detokenize", "/v1/models")

DEMO_MODEL = Path(__file__).with_name("data") / "micro-pydoc.gguf"
DEMO_CONTEXT = 2048


class LlamaCppPlugin:
    """llama.cpp's ``llama-server`` as an engine: engine_type ``llama.cpp``."""

    API_VERSION = API_VERSION

    def __init__(self) -> None:
        self._warned: set[str] = set()

    @hookimpl
    def variant_options(self) -> type[pydantic.BaseModel]:
        """See `LlamaCppOptions`."""
        return LlamaCppOptions

    @hookimpl
    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """A llama-server of the user's, else the bundled one; none in process."""
        if options_of(variant.options).in_process:
            return None
        return build_command(variant, endpoint, find_program(variant.binary))

    @hookimpl
    def create_backend(self, variant: Variant) -> Backend:
        """The bundled llama.cpp in this process."""
        from enginery_llamacpp.backend import LlamaCppBackend

        return LlamaCppBackend(variant)

    @hookimpl
    def get_supported_endpoints(self, variant: Variant) -> Sequence[str]:
        """By options and features.

        A model that embeds and chats says so with ``features: [chat, embeddings]``; one without a
        chat template had better say ``features: [completions]``, for llama.cpp takes ChatML then.
        """
        options, features = options_of(variant.options), variant.features or frozenset()
        if options.in_process:
            return _IN_PROCESS
        special = options.embedding or options.reranking
        generates = not special or not features.isdisjoint({"chat", "completions"})
        chats = generates and ("chat" in features or "completions" not in features)
        return (
            *(_CHAT if chats else ()),
            *(_COMPLETION if generates else ()),
            *(("/v1/embeddings",) if options.embedding else ()),
            *(("/v1/rerank",) if options.reranking else ()),
            *_ALWAYS,
        )

    @hookimpl
    def estimate_tokens(self, request: EngineRequest) -> TokenEstimate:
        """Bounds from bytes."""
        return estimate_tokens(request)

    @hookimpl
    def transform_request(self, request: EngineRequest, variant: Variant) -> dict[str, Any] | None:
        """Refuse what llama.cpp answers badly, remove what it ignores, else leave the bytes alone."""
        validate(request, variant)
        body, ignored = adapt(request)
        for field in ignored:
            if field not in self._warned:
                self._warned.add(field)
                log.warning("llama.cpp ignores %r (in %s): removed", field, request.path)
        return body

    @hookimpl
    def transform_response(self, request: EngineRequest) -> ResponseTransform | None:
        """Adds up the usage of several choices; every other reply is relayed as it comes."""
        return summed_usage(request)

    @hookimpl
    def prefers_stream(self, request: EngineRequest, variant: Variant) -> bool:
        """True for chats, completions, responses and messages: see `streams`. Not in process."""
        return prefers_stream(request, variant)

    @hookimpl
    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        """Overflow with its numbers, loading, busy, and mistakes that llama.cpp calls its own."""
        return parse_error(status, body)

    @hookimpl
    def variant_from_path(self, path: str) -> Mapping[str, Any] | None:
        """A ``.gguf`` file is ours."""
        if not path.lower().endswith(".gguf"):
            return None
        return {"options": {"model": str(Path(path).expanduser().absolute())}}

    @hookimpl
    def demo_variant(self) -> Mapping[str, Any]:
        """The model in this package: it recites Python's documentation. One thread is enough."""
        return {
            "context_length": DEMO_CONTEXT,
            "parallel": 1,
            "options": {"model": str(DEMO_MODEL), "threads": 1},
        }

    @hookimpl
    async def count_tokens(self, request: EngineRequest, engine: RunningEngine) -> int | None:
        """As llama.cpp itself counts them."""
        if options_of(engine.variant.options).in_process:
            return await count_in_process(request, engine)
        return await count_tokens(request, engine)
