"""`MockEngine`: an engine client for a mock server that somebody else started.

Knows: a URL. Does not know: processes, leases or the plugin registry: the plugin is at hand, so nothing
is searched for, and the client also works where the plugin is not installed as one.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from enginery import Endpoint, EngineHooks, PluginEngineClient, Variant
from enginery_mock.plugin import MockPlugin

__all__ = ["MockEngine"]

DEFAULT_PORT = 80  # as in any URL, and in the settings' `url`


class MockEngine(PluginEngineClient):
    """A running mock server, used as ``async with MockEngine("http://127.0.0.1:8081")``.

    Args:
        base_url: ``http://host:port``; the port is 80 if absent.
        api_key: what the server was started with, if anything.
        model: the name in requests and logs; the server answers to any.
        context_length: tokens per request, if known.

    Raises:
        ValueError: ``base_url`` is no http address.
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
        )
        hooks = EngineHooks(MockPlugin(), "mock", "enginery-mock")
        super().__init__(hooks, variant, _endpoint(base_url, api_key))


def _endpoint(base_url: str, api_key: str | None) -> Endpoint:
    url = urlsplit(base_url)
    if url.scheme != "http" or not url.hostname or url.path.strip("/"):
        raise ValueError(f"{base_url!r} is not of the form http://host:port")
    return Endpoint(url.hostname, url.port or DEFAULT_PORT, api_key=api_key)
