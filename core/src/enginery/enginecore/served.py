"""How a core server is told what to serve: an engine_type and a variant, as plain values in its environment.

Knows: the variables, their form, and the command line. Does not know: the server (`coreserver`), or how the
plugin is found there (`plugins.create_backend`, named by its import path alone). Options and keys go into the
environment, which other users of the machine cannot read; the command line, which they can, has the address.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from signal import SIGTERM
from typing import Any

import msgspec

from enginery.enginecore.config import ClientConfig
from enginery.errors import ConfigError
from enginery.values import Command, Endpoint, StopPlan, Variant

__all__ = ["KEY_VARIABLE", "SERVED_VARIABLE", "SERVER_NAME", "Served", "plain", "variant_of"]

SERVED_VARIABLE = "ENGINERY_CORESERVER"
KEY_VARIABLE = "ENGINERY_CORESERVER_API_KEY"

SERVER_NAME = "enginery-coreserver"
"""How it begins its ``Server`` header."""

BACKEND = "enginery.plugins:create_backend"
READY_HINT = r"^enginery-coreserver: ready"
STOP_PLAN = StopPlan(signals=((int(SIGTERM), 6.0),), kill_after=2.0)
"""It ends its core within five seconds, or kills it."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What one core server runs.

    Args:
        engine_type: whose `create_backend` makes the backend.
        variant: its fields as plain values.
        allow: distributions whose plugins may be loaded; empty, all.
        deny: those that may not.
    """

    engine_type: str
    variant: dict[str, Any]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @classmethod
    def of(cls, variant: Variant, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> Served:
        """A variant under these lists."""
        return cls(
            engine_type=variant.engine_type,
            variant=plain(variant),
            allow=tuple(allow),
            deny=tuple(deny),
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Served:
        """What the environment says.

        Raises:
            ConfigError: nothing, or something else.
        """
        try:
            return msgspec.json.decode(environ[SERVED_VARIABLE], type=cls)
        except KeyError:
            raise ConfigError(f"{SERVED_VARIABLE} is not set: it says what to serve") from None
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{SERVED_VARIABLE} cannot be read: {error}") from None

    def command(self, endpoint: Endpoint) -> Command:
        """What to run to have it served at ``endpoint``."""
        where = ["--host", endpoint.host, "--port", str(endpoint.port)]
        if endpoint.unix_path is not None:
            where = ["--uds", endpoint.unix_path]
        env = {SERVED_VARIABLE: msgspec.json.encode(self).decode()}
        if endpoint.api_key is not None:
            env[KEY_VARIABLE] = endpoint.api_key
        return Command(
            # -P: a json.py in the working directory is not ours
            argv=(sys.executable, "-P", "-m", "enginery.coreserver", *where),
            env=env,
            ready_hint=READY_HINT,
            stop_plan=STOP_PLAN,
        )

    def config(self) -> ClientConfig:
        """For the client that starts the core."""
        return ClientConfig(
            backend=BACKEND,
            options={
                "engine_type": self.engine_type,
                "variant": self.variant,
                "allow": list(self.allow),
                "deny": list(self.deny),
            },
        )


def plain(variant: Variant) -> dict[str, Any]:
    """A variant as values that JSON has. Options lose their class, and only those that were set travel.

    Raises:
        ConfigError: an option that JSON has no form for.
    """
    fields = {name: getattr(variant, name) for name in variant.__dataclass_fields__}
    dump = getattr(variant.options, "model_dump", None)  # a pydantic model's
    if dump is not None:
        fields["options"] = dump(exclude_unset=True, by_alias=True)
    try:
        made: dict[str, Any] = msgspec.to_builtins(fields, enc_hook=_plain_option, str_keys=True)
        msgspec.json.encode(made)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{variant.id}: an option cannot be handed on: {error}") from error
    return made


def variant_of(fields: Mapping[str, Any]) -> Variant:
    """The variant that `plain` took apart; its options are a mapping. Raises ConfigError."""
    try:
        return msgspec.convert(dict(fields), Variant)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"this is no variant: {error}") from None


def _plain_option(value: Any) -> Any:
    """A secret is handed on as it is, a path as text."""
    reveal = getattr(value, "get_secret_value", None)
    if reveal is not None:
        return reveal()
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value")
