"""Addresses for engines: a free port with a key of its own, or the one that a URL names.

Knows: loopback ports. Does not know: engines or HTTP. Between choosing a port and the engine's binding
it another program may take it; so a listener is believed only when it is ours (see `listeners`).
"""

from __future__ import annotations

import secrets
import socket
from urllib.parse import urlsplit

from enginery.errors import ConfigError
from enginery.values import Endpoint

__all__ = ["endpoint_of_url", "free_endpoint"]


def free_endpoint(host: str = "127.0.0.1") -> Endpoint:
    """An endpoint on a port that was free a moment ago, with a new random key."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return Endpoint(host, port, api_key=secrets.token_urlsafe(24))


def endpoint_of_url(url: str, *, api_key: str | None = None) -> Endpoint:
    """The endpoint that ``url`` names; the port defaults to 80.

    Raises:
        ConfigError: not an ``http://host[:port]`` URL.
    """
    try:
        parts = urlsplit(url)
        port = 80 if parts.port is None else parts.port
    except ValueError:  # an unclosed bracket, a port that is no number
        parts, port = urlsplit(""), 0
    more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme != "http" or not parts.hostname or not port or more:
        raise ConfigError(f"url must look like http://127.0.0.1:8081, got {url!r}", param="url")
    return Endpoint(parts.hostname, port, api_key=api_key)
