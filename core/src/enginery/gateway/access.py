"""Who may ask for what: decided on header values alone.

Knows: under which names we may be asked, which web pages may ask, keys and what each opens. Does not know:
connections, or what is behind a route. An `Access` never changes; other settings are another one.

* A ``Host`` that is none of ours is refused: a name that an attacker controls may lead here (DNS rebinding).
* An ``Origin`` stands in what web pages ask; it must be ours, or one of those that the settings allow.
* Keys are compared as SHA-256 digests, each with all, whatever matched, so that time tells nothing.
* ``/api`` and ``/unload`` want an admin's key; where the settings have none, a client on this machine, that no proxy brought.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

import psutil

from enginery.errors import AccessDenied, AuthenticationFailed, ConfigError
from enginery.settings.server import KeySettings, ServerSettings, parse_authority, parse_origin

__all__ = ["Access", "Asked", "Visitor", "check_exposure", "own_addresses"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})
"""Answered without a key: they tell nothing but that we are here."""

ROOT_PATH = "/"
"""Where a browser begins: strangers may look, and are told less."""

UI_PATH = "/ui"
"""The dashboard's files: the same for everybody. What the page asks for with them wants a key like anything else."""

ADMIN_PREFIX = "/api/"
ADMIN_PATHS = frozenset({"/unload"})

PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Whoever sends one of these is not on this machine, wherever the connection comes from."""

_REMEMBERED = 64
"""Spellings of ``Host`` that the short way knows at sight."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request's head says of who asks; header values as they came, None where there is none."""

    path: str
    host: str | None
    origin: str | None = None
    authorization: str | None = None
    x_api_key: str | None = None
    local: bool = False
    """The peer is on this machine, and no proxy says that it brought somebody else."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who may come in.

    Args:
        models: those that may be used; None: all.
        admin: ``/api`` is open.
    """

    models: frozenset[str] | None = None
    admin: bool = False

    @property
    def is_stranger(self) -> bool:
        """Whether nothing at all may be used: there are keys, and none of them was shown."""
        return self.models is not None and not self.models

    def may_use(self, name: str, aliases: Iterable[str] = ()) -> bool:
        """Whether the model of this name may be used; `ServerSettings.api_keys` may name aliases too."""
        return self.models is None or not self.models.isdisjoint((name, *aliases))


class _Key:
    """A key, of which nothing but the digest is kept."""

    __slots__ = ("digest", "models")

    def __init__(self, settings: KeySettings) -> None:
        self.digest = _digest(settings.key.get_secret_value())
        self.models = None if settings.models is None else frozenset(settings.models)


class Access:
    """The rules of one gateway.

    Args:
        server: its settings.
        addresses: its own addresses besides loopback; see `own_addresses`.
    """

    def __init__(self, server: ServerSettings, addresses: Iterable[str] = ()) -> None:
        self._hosts: set[tuple[str, int | None]] = {(name, None) for name in LOOPBACK}
        for text in (*addresses, *server.allowed_hosts):
            known = parse_authority(
                f"[{text}]" if text.count(":") > 1 and "[" not in text else text
            )
            if known is not None:
                self._hosts.add(known)
        self._origins = {parse_origin(text) for text in server.allowed_origins} - {None}
        self._keys = [_Key(key) for key in server.api_keys]
        self._admin_keys = [_Key(key) for key in server.admin_keys]
        self._unrestricted = {
            key.digest for key in (*self._keys, *self._admin_keys) if key.models is None
        }
        self._seen_hosts: set[bytes] = set()

    # -- the short way -------------------------------------------------------------------------

    def admits(self, fields: dict[bytes, bytes]) -> bool:
        """Whether a plain request to a model needs no closer look; ``fields`` are without ``Origin``.

        False says nothing but that `admit` is to decide.
        """
        host = fields[b"host"]
        if host not in self._seen_hosts:
            if len(self._seen_hosts) >= _REMEMBERED or not self._is_ours(host.decode("latin-1")):
                return False
            self._seen_hosts.add(host)
        if not self._keys:
            return True
        given = fields.get(b"authorization")
        if given is None:
            key = fields.get(b"x-api-key")
        else:
            key = given[7:] if given.startswith(b"Bearer ") else None
        # a set may be used: who learns by its timing whether a digest is in it has learnt no key
        return key is not None and sha256(key).digest() in self._unrestricted

    # -- the long way --------------------------------------------------------------------------

    def admit(self, asked: Asked) -> Visitor:
        """Who asks, if that one may ask for this path at all.

        Raises:
            AccessDenied: wrong host or origin, or an admin is wanted.
            AuthenticationFailed: a key is wanted, and there is none, or none that is known.
        """
        self.check_page(asked.host, asked.origin)
        if (
            asked.path in OPEN_PATHS
            or asked.path == UI_PATH
            or asked.path.startswith(f"{UI_PATH}/")
        ):
            return Visitor()
        given = [*_bearer(asked.authorization), *([asked.x_api_key] if asked.x_api_key else [])]
        digests = [_digest(text) for text in given]
        admin = _find(self._admin_keys, digests)
        if admin is not None:
            return Visitor(admin.models, admin=True)
        wants_admin = asked.path.startswith(ADMIN_PREFIX) or asked.path in ADMIN_PATHS
        key = _find(self._keys, digests)
        if (self._keys or (self._admin_keys and wants_admin)) and key is None:
            if asked.path == ROOT_PATH:
                return Visitor(frozenset())
            raise AuthenticationFailed(
                "that is none of our keys"
                if given
                else "a key is needed: send it as a bearer token"
            )
        models = None if key is None else key.models
        if wants_admin and (self._admin_keys or not asked.local or models is not None):
            where = (
                "with a key of `server.admin_keys`"
                if self._admin_keys
                else "from this machine, with a key for all models, until `server.admin_keys` has one"
            )
            raise AccessDenied(f"{asked.path} is asked {where}", code="admin_required")
        return Visitor(models, admin=wants_admin)

    def check_page(self, host: str | None, origin: str | None) -> str | None:
        """The origin, where it is another than ours and allowed; None where there is none, or ours.

        Raises:
            AccessDenied: the host is none of ours, or the page may not ask.
        """
        if not self._is_ours(host or ""):
            raise AccessDenied(
                f"this gateway is not asked as {host or 'nobody'!r}; `server.allowed_hosts` may name it",
                code="forbidden_host",
            )
        if origin is None:
            return None
        page = parse_origin(origin)
        if page is not None:
            if page in self._origins:
                return origin
            scheme, *where = page
            ours = parse_authority(host or "")
            default = 443 if scheme == "https" else 80
            if ours is not None and tuple(where) == (ours[0], ours[1] or default):
                return None
        raise AccessDenied(
            f"pages of {origin!r} may not ask here; `server.allowed_origins` may name it",
            code="forbidden_origin",
        )

    def _is_ours(self, host: str) -> bool:
        found = parse_authority(host)
        return found is not None and (found in self._hosts or (found[0], None) in self._hosts)


def own_addresses(host: str) -> list[str]:
    """What leads to a gateway that listens on ``host``; on all: each address of this machine."""
    try:
        unspecified = ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return [host]
    if not unspecified:
        return [host]
    return [
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in {socket.AF_INET, socket.AF_INET6}
    ]


def check_exposure(server: ServerSettings) -> None:
    """Refuse to let every machine use every model by oversight.

    Raises:
        ConfigError: other machines reach the address, there is no key, and nobody said that this is meant.
    """
    if server.exposed:
        raise ConfigError(
            f"{server.host} is reached by other machines, and no key is asked for: set `server.api_keys`, "
            "or `server.allow_unauthenticated: true` if that is meant",
            param="server.host",
        )


def _digest(text: str) -> bytes:
    # header values hold any bytes, as half surrogates
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _bearer(authorization: str | None) -> list[str]:
    scheme, _, key = (authorization or "").partition(" ")
    return [key.strip()] if scheme.lower() == "bearer" and key.strip() else []


def _find(keys: Iterable[_Key], digests: Iterable[bytes]) -> _Key | None:
    """The key that one of ``digests`` is; every pair is compared."""
    found = None
    wanted = list(digests)
    for key in keys:
        for digest in wanted:
            if hmac.compare_digest(key.digest, digest):
                found = key
    return found
