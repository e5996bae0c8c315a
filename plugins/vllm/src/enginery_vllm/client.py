"""`VllmEngine`: a client for a vLLM server that runs already, by its URL.

Knows: what a vLLM client adds to the framework's: the plugin's hooks, a limit for replies. Does not know: how the server
was started; nothing is started, stopped or leased here.
"""

from __future__ import annotations

from typing import Any

from enginery import EngineHooks, ServerClient, Variant
from enginery_vllm.options import options_of
from enginery_vllm.plugin import VllmPlugin

__all__ = ["VllmEngine"]

ENGINE_TYPE = "vllm"
DISTRIBUTION = "enginery-vllm"
DEFAULT_REPLY_TOKENS = 512


class VllmEngine(ServerClient):
    """A running vLLM server, used as ``async with VllmEngine("http://127.0.0.1:8000", model="NAME")``.

    Tokens are counted by the server itself; fields that vLLM ignores are translated or warned of, once each; health
    is ``/health``.

    Args:
        base_url: as the settings' ``url``, such as ``http://host:port``; see `Endpoint.from_url`.
        model: what the server calls its model (``--served-model-name``); it refuses other names.
        api_key: what the server was started with, if anything.
        context_length: tokens per request, if known.
        parallel: how many requests the server works on at once, if known.
        max_tokens: the limit for replies of chats and completions that set none, in tokens, at most
            ``context_length``, for vLLM refuses more; None sends none, and a reply may fill the context.
        options: as in the settings file, such as ``runner="pooling"`` for an embedding server.

    Raises:
        ValueError: ``base_url`` is no address of a server.
        pydantic.ValidationError: an unknown option.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | None = None,
        context_length: int | None = None,
        parallel: int = 1,
        max_tokens: int | None = DEFAULT_REPLY_TOKENS,
        **options: Any,
    ) -> None:
        if max_tokens is not None and context_length is not None:
            max_tokens = min(max_tokens, context_length)
        variant = Variant(
            model=model,
            engine_type=ENGINE_TYPE,
            context_length=context_length,
            parallel=parallel,
            options=options_of(options),
            url=base_url.rstrip("/"),
            api_key=api_key,
        )
        hooks = EngineHooks(VllmPlugin(), ENGINE_TYPE, DISTRIBUTION)
        super().__init__(hooks, variant, max_tokens=max_tokens)
