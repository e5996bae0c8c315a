"""The gateway's own settings: where it listens, and who may ask it.

Knows: what may be written under ``server``. Does not know: how a request is checked against it.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr

from enginery.settings.fields import ModelName, Size, Text, WholeNumber
from enginery.settings.section import Section

__all__ = ["KeySettings", "ServerSettings"]


class KeySettings(Section):
    """A key of a client: its text alone, or ``{key: TEXT, models: [NAME, ...]}``."""

    key: Annotated[SecretStr, Field(min_length=1)] = Field(
        description="What the client sends; best written as `${env.NAME}`."
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
        (), description="Keys for `/api`; where only `api_keys` are set, it answers loopback only."
    )
    allowed_hosts: tuple[Text, ...] = Field(
        (), description="Names under which the gateway may be asked, besides its own addresses."
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
