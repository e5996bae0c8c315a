"""Frozen values that every part of the framework shares.

Knows: what a variant, a command, an estimate and a health report are. Does not know: plugins,
settings, processes or HTTP. Times are seconds, sizes are bytes. Nothing here imports a library, so
that engine servers started as children can use it and still start fast.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from signal import SIGTERM
from typing import Any, Literal, Protocol

__all__ = [
    "Command",
    "Endpoint",
    "EngineReply",
    "EngineRequest",
    "Health",
    "HealthState",
    "JSONObject",
    "Memory",
    "ResponseTransform",
    "RunningEngine",
    "StopPlan",
    "TokenEstimate",
    "Transport",
    "Variant",
]

JSONObject = dict[str, Any]
"""A decoded JSON object: the body of a request, a reply or a stream chunk."""

HealthState = Literal["starting", "ready", "asleep", "failed"]

_UNIX = "http+unix"
_PORTS = {"http": 80, "https": 443}
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one engine listens, and all that is needed to talk to it.

    Args:
        host: a name or address; ``localhost`` where there is a ``unix_path``.
        port: the TCP port; 0 where there is a ``unix_path``.
        api_key: made afresh for each engine that we start and given to it by environment, never by
            command line: who answers to it is ours. Of an attached server: its own key.
        unix_path: listens on this unix socket and nowhere else.
        scheme: ``https`` only of attached servers.
        prefix: stands before every route, without a trailing slash; only of attached servers.
    """

    host: str
    port: int
    api_key: str | None = field(default=None, repr=False)
    unix_path: str | None = None
    scheme: Literal["http", "https"] = "http"
    prefix: str = ""

    def __hash__(self) -> int:
        """Of what tells most of them apart: each request asks for it."""
        return self.port or hash(self.unix_path)

    @classmethod
    def from_url(cls, url: str, *, api_key: str | None = None) -> Endpoint:
        """The endpoint that a `base_url` names; the port defaults to the scheme's.

        A path is the prefix of every route. ``/v1`` at its end is left out: clients of OpenAI's API are
        given it so, and our routes have it.

        Raises:
            ValueError: not such a URL, or it holds a query, a fragment or credentials.
        """
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(url)
        port, path = parts.port, parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        fine = bool(parts.netloc) and port != 0
        if not fine or parts.query or parts.fragment or "@" in parts.netloc or _BLANK.search(url):
            raise ValueError(f"{url!r} is no address of a server")
        if parts.scheme == _UNIX:
            socket = unquote(parts.netloc)
            if not socket.startswith("/") or "\0" in socket:
                raise ValueError(f"{url!r} names no socket")
            return cls("localhost", 0, api_key, socket, prefix=path)
        if not parts.hostname or parts.scheme not in _PORTS:
            raise ValueError(f"{url!r} is no address of a server")
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        return cls(parts.hostname, port or _PORTS[scheme], api_key, scheme=scheme, prefix=path)

    @property
    def base_url(self) -> str:
        """``http://host:port`` without a trailing slash; IPv6 addresses in brackets.

        With a unix socket: ``http+unix://`` and the path, percent-encoded, as other programs write it:
        no HTTP client takes it for an address of TCP. Requests are then sent to `request_url`.
        """
        if self.unix_path is not None:
            from urllib.parse import quote

            return f"{_UNIX}://{quote(self.unix_path, safe='')}{self.prefix}"
        return f"{self.scheme}://{self._bracketed}:{self.port}{self.prefix}"

    @property
    def request_url(self) -> str:
        """What goes before a route in a request, once connected: `base_url`, but for unix sockets."""
        return self.base_url if self.unix_path is None else f"http://localhost{self.prefix}"

    @property
    def authority(self) -> str:
        """The ``Host`` header's value."""
        if self.unix_path is not None or self.port == _PORTS[self.scheme]:
            return self._bracketed
        return f"{self._bracketed}:{self.port}"

    @property
    def address(self) -> str:
        """For people: the socket's path, or ``host:port``."""
        return self.unix_path or f"{self.host}:{self.port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


@dataclass(frozen=True, slots=True)
class StopPlan:
    """How an engine is asked to leave.

    Each ``(signal, wait)`` in order, waiting at most ``wait`` seconds for the exit; then SIGKILL to
    every descendant and at most ``kill_after`` seconds until all are reaped.
    """

    signals: tuple[tuple[int, float], ...] = ((int(SIGTERM), 10.0),)
    kill_after: float = 2.0

    def capped(self, total: float) -> StopPlan:
        """The same plan with the waits cut so that they sum to at most ``total`` seconds."""
        left, cut = total, []
        for number, wait in self.signals:
            cut.append((number, min(wait, left)))
            left = max(0.0, left - wait)
        return StopPlan(tuple(cut), self.kill_after)


@dataclass(frozen=True, slots=True)
class Command:
    """One engine server's command line and what the framework must know to run it.

    Args:
        argv: program and arguments; never passed through a shell.
        env: added to the environment that the engine inherits.
        cwd: working directory; None is the manager's own.
        health_path: what the default health check asks for.
        ready_hint: a regular expression on one log line: a reason to look now, never proof.
        cause_hint: a regular expression on one log line: such lines are shown with the error when the engine
            ends by itself, however much it printed after them.
        stop_plan: signals and waits.
        stop_argv: a command that stops what signals cannot reach (``docker stop NAME``).
        check_argv: a short command with the same program, which ``enginery doctor`` runs: its last line says what
            the program is (``vLLM 0.32.0``) or, when it ends with another status than 0, what is missing.
        folder_variable: an environment variable that gets a folder of this start's own, for sockets and small
            files; the folder goes when the engine is gone, however it ended. Not set where a socket's path in it
            would be too long, nor where ``env`` has it.
        log_level: the level at which the engine's output is logged; ``"warning"`` leaves the
            default, stdout at INFO and stderr at WARNING, for engines that use stderr sparingly.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    health_path: str = "/health"
    ready_hint: str | None = None
    cause_hint: str | None = None
    stop_plan: StopPlan = field(default_factory=StopPlan)
    stop_argv: Sequence[str] | None = None
    check_argv: Sequence[str] = ()
    folder_variable: str | None = None
    log_level: Literal["debug", "info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model: what ``engine_type`` starts with which options.

    Args:
        model: the name that clients ask for.
        name: the variant's name within its model, ``"default"`` where there is only one.
        engine_type: the name of the plugin that runs it.
        context_length: tokens per request, prompt and reply together; None is the engine's own
            default. A plugin multiplies by ``parallel`` where its engine wants the sum.
        parallel: how many requests the engine works on at once (slots).
        options: the plugin's typed options (an instance of its ``variant_options()``), or a plain
            mapping where the plugin declares none.
        binary: replaces the program of the plugin's command line.
        args: together with ``binary``: the whole command line; alone: added to the plugin's. Each may
            hold ``{host}``, ``{port}`` and ``{model}``, with a unix socket also ``{socket}``, filled in per
            argument.
        env: added to the engine's environment.
        work_dir: the engine's working directory.
        stop_argv: run after the engine has ended, filled in as ``args``; in place of the plugin's.
        url: a server's address: alone, one that is attached to, never started; with ``binary``, the
            address at which the started engine answers.
        features: what the model can do (``"chat"``, ``"embeddings"``, ...); None is unknown and
            refuses nothing.
        listen: what the engine that we start listens on: a TCP port or a unix socket.
        api_key: an attached server's key; the engines that we start get a key of their own each time.
        upstream_model: what the engine calls the model, where that is not ``model``.

    Two variants are the same when they are equal after validation.
    """

    model: str
    name: str = "default"
    engine_type: str = "openai"
    context_length: int | None = None
    parallel: int = 1
    options: Any = field(default_factory=dict)
    binary: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    work_dir: str | None = None
    url: str | None = None
    features: frozenset[str] | None = None
    listen: Literal["tcp", "unix"] = "tcp"
    api_key: str | None = field(default=None, repr=False)
    upstream_model: str | None = None
    stop_argv: tuple[str, ...] = ()

    @property
    def attached(self) -> bool:
        """True for a server that somebody else runs: it is never started and never stopped."""
        return self.url is not None and self.binary is None

    @property
    def body_model(self) -> str:
        """What the ``model`` of a request's body is replaced by."""
        return self.upstream_model or self.model

    @property
    def id(self) -> str:
        """``model/name``: how logs, status rows and errors call this variant."""
        return f"{self.model}/{self.name}"


@dataclass(slots=True)
class EngineRequest:
    """One inference request: the route, the decoded JSON object and whether it streams.

    Hooks must not change it. It is not frozen, because that costs a microsecond and there is one for each request.
    """

    path: str
    body: JSONObject
    stream: bool = False


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Bounds on a request's prompt tokens, both inclusive.

    ``high`` is None where no bound is sound: images, audio, an unknown way of counting.
    """

    low: int
    high: int | None

    def __post_init__(self) -> None:
        if self.low < 0 or (self.high is not None and self.high < self.low):
            raise ValueError(f"bounds must satisfy 0 <= low <= high, got {self.low}, {self.high}")


@dataclass(frozen=True, slots=True)
class Health:
    """What an engine says of itself. ``progress`` is the loaded fraction, 0 to 1, if known."""

    state: HealthState
    progress: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes per device (``"ram"``, ``"gpu0"``, ...) while serving, and while asleep."""

    ready: Mapping[str, int]
    asleep: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineReply:
    """An engine's whole answer to one small request: header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body.

        Raises:
            ValueError: the body is not JSON.
        """
        import json

        return json.loads(self.body)


Transport = Callable[[str, str, JSONObject | None, float | None], Awaitable[EngineReply]]
"""``(method, path, body, timeout) -> EngineReply``: how a `RunningEngine` reaches its engine."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """A live engine, as the hooks that do I/O see it.

    ``transport`` is what carries the two calls; a plugin's tests pass a function of their own.
    """

    variant: Variant
    endpoint: Endpoint
    pid: int | None
    transport: Transport = field(repr=False)
    health_path: str = "/health"

    async def get(self, path: str, timeout: float | None = None) -> EngineReply:
        """GET ``path``; ``timeout`` in seconds, None for the hook's own deadline.

        Raises:
            EngineUnreachable: nothing answered.
        """
        return await self.transport("GET", path, None, timeout)

    async def post(self, path: str, body: JSONObject, timeout: float | None = None) -> EngineReply:
        """POST ``body`` as JSON to ``path``; ``timeout`` as for `get`.

        Raises:
            EngineUnreachable: nothing answered.
        """
        return await self.transport("POST", path, body, timeout)


class ResponseTransform(Protocol):
    """Rewrites one reply: one object per request, so it may keep state between chunks."""

    def reply(self, body: JSONObject) -> JSONObject:
        """Called once with a whole, non-streamed reply; returns what the client gets."""
        ...

    def chunk(self, body: JSONObject) -> list[JSONObject]:
        """Called with each chunk of a stream; returns the chunks the client gets instead."""
        ...

    def end(self) -> list[JSONObject]:
        """Called when the stream is complete; returns chunks that were held back."""
        ...
