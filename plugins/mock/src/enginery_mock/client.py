"""`MockEngine`: an engine client for a mock server that somebody else started.

Knows: a URL. Does not know: processes, leases or the plugin registry: the plugin is at hand, so nothing
is searched for, and the client also works where the plugin is not installed as one.
"""

from __future__ import annotations

from enginery import EngineHooks, ServerClient, Variant
from enginery_mock.plugin import MockPlugin

__all__ = ["MockEngine"]


class MockEngine(ServerClient):
    """A running mock server, used as ``async with MockEngine("http://127.0.0.1:8081")``.

    Args:
        base_url: as the settings' ``url``, such as ``http://host:port``; see `Endpoint.from_url`.
        api_key: what the server was started with, if anything.
        model: the name in requests and logs; the server answers to any.
        context_length: tokens per request, if known.

    Raises:
        ValueError: ``base_url`` is no address of a server.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str = "mock",
        context_length: int | None = None,
    ) -> None:
        variant = Variant(
            model=model,
            engine_type="mock",
            context_length=context_length,
            url=base_url.rstrip("/"),
            api_key=api_key,
        )
        super().__init__(EngineHooks(MockPlugin(), "mock", "enginery-mock"), variant)
