"""The gateway's own settings: where it listens, and who may ask it.

Knows: what may be written under ``server``. Does not know: how a request is checked against it.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from enginery.settings.fields import ModelName, Size, Text, WholeNumber
from enginery.settings.section import Section

__all__ = ["KeySettings", "ServerSettings", "parse_authority", "parse_origin"]

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_](?:[a-z0-9._-]{0,252}[a-z0-9_])?))"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_authority(text: str) -> tuple[str, int | None] | None:
    """Name or address, in one spelling, and port of a ``Host``; None where it is none.

    No user, no trailing dot, no blanks; an IPv6 address stands in brackets.
    """
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None:
        return None
    name, port = found["name"], found["port"]
    if name is None:
        try:
            name = str(ip_address(found["v6"]))
        except ValueError:
            return None
    number = None if port is None else int(port)
    return None if number is not None and not 0 < number < 65536 else (name, number)


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of a web page's ``Origin``; None where it is none, as ``null`` is."""
    scheme, slashes, rest = text.partition("://")
    authority = parse_authority(rest) if slashes else None
    if authority is None or scheme.lower() not in _DEFAULT_PORTS:
        return None
    return scheme.lower(), authority[0], authority[1] or _DEFAULT_PORTS[scheme.lower()]


def _check_authority(value: str) -> str:
    if parse_authority(value) is None:
        raise ValueError("needs a name or address such as gateway.example.org or 10.0.0.5:8080")
    return value


def _check_origin(value: str) -> str:
    if parse_origin(value) is None:
        raise ValueError("needs an origin such as https://chat.example.org")
    return value


class KeySettings(Section):
    """A key of a client: its text alone, or ``{key: TEXT, models: [NAME, ...]}``."""

    key: Annotated[SecretStr, Field(min_length=1)] = Field(
        description="What the client sends; best written as `${env.NAME}` or `file:PATH`."
    )
    models: tuple[ModelName, ...] | None = Field(
        None, description="Models that it may use, by name; absent: all."
    )


def _key_alone(value: Any) -> Any:
    return {"key": value} if isinstance(value, str | SecretStr) else value


Key = Annotated[KeySettings, BeforeValidator(_key_alone)]


class ServerSettings(Section):
    """The gateway: its address, its keys and its limits."""

    host: Annotated[Text, Field(min_length=1)] = Field(
        "127.0.0.1", description="Address to listen on, or a name for one; `0.0.0.0`: all."
    )
    port: WholeNumber = Field(8080, ge=0, le=65535, description="TCP port; 0: any free one.")
    api_keys: tuple[Key, ...] = Field(
        (),
        description="Keys that clients must send, each a text or `{key: ..., models: [...]}`; "
        "empty: none is asked for.",
    )
    admin_keys: tuple[Key, ...] = Field(
        (),
        description="Keys for `/api`, and for all else; where none is set, `/api` answers loopback only.",
    )
    allowed_hosts: tuple[Annotated[Text, AfterValidator(_check_authority)], ...] = Field(
        (),
        description="Names under which the gateway may be asked, besides its own addresses; with a "
        "port, at that one alone.",
    )
    allowed_origins: tuple[Annotated[Text, AfterValidator(_check_origin)], ...] = Field(
        (),
        description="Web pages' origins, such as `https://chat.example.org`, that may ask besides our own.",
    )
    allow_unauthenticated: bool = Field(
        False, description="Listen beyond this machine although no key is set."
    )
    body_limit: Annotated[Size, Field(gt=0)] = Field(
        64 * 2**20, description="Bytes (or a size such as 64MiB) that a request's body may have."
    )

    @property
    def local_only(self) -> bool:
        """True where `host` is loopback, so that no other machine reaches it.

        A name counts as loopback only when it is ``localhost``: nothing is looked up.
        """
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def exposed(self) -> bool:
        """True where other machines could use every model without a key, and nobody said they may."""
        return not (self.local_only or self.api_keys or self.allow_unauthenticated)
