"""`LlamaCppEngine`: a client for a llama.cpp server that runs already, by its URL.

Knows: what a llama.cpp client adds to the framework's: the plugin's hooks, a limit for replies. Does
not know: how the server was started; nothing is started, stopped or leased here.
"""

from __future__ import annotations

from typing import Any

from enginery import EngineHooks, ServerClient, Variant
from enginery_llamacpp.options import options_of
from enginery_llamacpp.plugin import LlamaCppPlugin

__all__ = ["LlamaCppEngine"]

ENGINE_TYPE = "llama.cpp"
DISTRIBUTION = "enginery-llamacpp"
DEFAULT_REPLY_TOKENS = 512


class LlamaCppEngine(ServerClient):
    """A running llama.cpp server, used as ``async with LlamaCppEngine("http://127.0.0.1:8080")``.

    Tokens are counted by the server itself; fields that llama.cpp ignores are removed, with one
    warning each; health is ``/health``, else ``/v1/models``.

    Args:
        base_url: as the settings' ``url``, such as ``http://host:port``; see `Endpoint.from_url`.
        api_key: what the server was started with, if anything.
        model: the name in requests and logs; llama.cpp itself serves whatever it has loaded.
        context_length: tokens per request, if known.
        parallel: how many slots the server has, if known.
        max_tokens: the limit for replies of chats and completions that set none, in tokens; None
            sends none, and a reply may fill the context.
        options: as in the settings file, such as ``embedding=True`` for an embedding server.

    Raises:
        ValueError: ``base_url`` is no address of a server.
        pydantic.ValidationError: an unknown option.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str = ENGINE_TYPE,
        context_length: int | None = None,
        parallel: int = 1,
        max_tokens: int | None = DEFAULT_REPLY_TOKENS,
        **options: Any,
    ) -> None:
        variant = Variant(
            model=model,
            engine_type=ENGINE_TYPE,
            context_length=context_length,
            parallel=parallel,
            options=options_of(options),
            url=base_url.rstrip("/"),
            api_key=api_key,
        )
        hooks = EngineHooks(LlamaCppPlugin(), ENGINE_TYPE, DISTRIBUTION)
        super().__init__(hooks, variant, max_tokens=max_tokens)
