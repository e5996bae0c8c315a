"""`ServerClient`: an engine client for a server that somebody else started, by its URL.

Knows: a variant with a ``url``, and that a reply may want a limit. Does not know: processes, leases, settings or the plugin
registry: whoever makes one has the plugin at hand. The plugins' own clients (`LlamaCppEngine`, `VllmEngine`) are this with
their hooks and options.
"""

from __future__ import annotations

from enginery.engine.client import DEFAULT_REPLY_TOKENS, PluginEngineClient
from enginery.engine.routing import BUDGETS
from enginery.plugins import EngineHooks
from enginery.values import Endpoint, EngineRequest, JSONObject, Variant

__all__ = ["ServerClient"]


class ServerClient(PluginEngineClient):
    """A running server; ``async with`` closes its connections. Nothing is started, stopped or leased.

    Args:
        hooks: the plugin's.
        variant: what runs there; its ``url`` says where, see `Endpoint.from_url`, and its ``api_key`` is the server's.
        max_tokens: the limit for replies of chats and completions that set none, in tokens; None sends none, and a
            reply may fill the context.

    Raises:
        ValueError: the ``url`` is no address of a server.
    """

    def __init__(
        self, hooks: EngineHooks, variant: Variant, *, max_tokens: int | None = None
    ) -> None:
        endpoint = Endpoint.from_url(variant.url or "", api_key=variant.api_key)
        budget = DEFAULT_REPLY_TOKENS if max_tokens is None else max_tokens
        super().__init__(hooks, variant, endpoint, reply_tokens=budget)
        self.max_tokens = max_tokens

    def body_for(self, request: EngineRequest) -> JSONObject:
        """As `PluginEngineClient.body_for`; a reply without a limit gets one."""
        body = super().body_for(request)
        generates = "messages" in body or "prompt" in body
        unlimited = all(body.get(field) is None for field in BUDGETS)
        if self.max_tokens is not None and generates and unlimited:
            return {**body, "max_tokens": self.max_tokens}
        return body
