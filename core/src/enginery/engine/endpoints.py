"""Addresses for engines: a free port or socket with a key of its own, or the one that a URL names.

Knows: loopback ports. Does not know: engines or HTTP. Between choosing a port and the engine's binding
it another program may take it; so a listener is believed only when it is ours (see `ownership`).
"""

from __future__ import annotations

import secrets
import socket

from enginery.errors import ConfigError
from enginery.values import Endpoint

__all__ = ["endpoint_of_url", "free_endpoint", "unix_endpoint"]


def free_endpoint(host: str = "127.0.0.1") -> Endpoint:
    """An endpoint on a port that was free a moment ago, with a new random key."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return Endpoint(host, port, api_key=secrets.token_urlsafe(24))


def unix_endpoint(path: str) -> Endpoint:
    """An endpoint on the unix socket ``path``, with a new random key."""
    return Endpoint("localhost", 0, api_key=secrets.token_urlsafe(24), unix_path=path)


def endpoint_of_url(url: str, *, api_key: str | None = None) -> Endpoint:
    """As `Endpoint.from_url`.

    Raises:
        ConfigError: the URL names no server.
    """
    try:
        return Endpoint.from_url(url, api_key=api_key)
    except ValueError:
        text = f"url must look like http://127.0.0.1:8081, got {url!r}"
        raise ConfigError(text, param="url") from None
