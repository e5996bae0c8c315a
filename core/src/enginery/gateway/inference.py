"""A request's way from its body to an engine's socket: route, lease, transform, send.

Knows: which of a model's variants may serve a request, what bytes the engine gets. The decisions need
nothing but the body, so both doors use them: aiohttp's handler (`serve`) and the fast path
(`connection`). Does not know: how a reply is relayed (`relay`), folded (`decoded`) or held (`held`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from enginery.api.aggregate import streaming_fields
from enginery.api.body import DecodedBody
from enginery.api.endings import Api, api_of
from enginery.engine.catalog import ModelEntry
from enginery.engine.lease import Lease
from enginery.engine.manager import EngineManager, Route
from enginery.errors import EndpointNotSupported, EngineryError, InvalidRequest, ModelNotFound
from enginery.gateway.access import Visitor
from enginery.gateway.sent import Reply
from enginery.plugins import EngineHooks
from enginery.plugins.transforms import encode_made
from enginery.values import Endpoint, EngineRequest, ResponseTransform, Variant

__all__ = ["Finished", "Inference", "Outgoing", "Wanted"]

log = logging.getLogger("enginery.gateway")

_FEATURES = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
}


# The next three are made for each request: a dataclass takes twice as long.
class Wanted(msgspec.Struct):
    """One request that may be served: what it asks for and by whom."""

    request: EngineRequest
    body: DecodedBody
    api: Api
    route: Route

    @property
    def entry(self) -> ModelEntry:
        """The model."""
        return self.route.entry


class Outgoing(msgspec.Struct):
    """What one engine gets for one request, and what is to happen to its reply.

    Args:
        payload: the body's bytes.
        folded: it goes as a stream although the client wants one reply.
        transform: the plugin's, where it wants to change the reply.
    """

    payload: bytes
    folded: bool = False
    transform: ResponseTransform | None = None

    @property
    def relayed(self) -> bool:
        """True when the engine's bytes can go on as they come."""
        return not self.folded and self.transform is None


class Finished(msgspec.Struct):
    """One request that is over, for whoever counts.

    One of ``reply`` and ``error`` is set, or neither where its client left before the end.

    Args:
        path, model, variant: what was asked for; ``model`` is empty where there is none of that name, and
            ``variant`` None where no engine was leased.
        queue_s, swap_s: seconds that it waited for others, and for its engine to start.
        request: the lease's number, as in events.
        stream: the client wanted a stream.
        overhead_s: seconds that it spent in the gateway before the engine had it.
    """

    path: str
    model: str
    variant: Variant | None
    queue_s: float
    swap_s: float
    reply: Reply | None = None
    error: EngineryError | None = None
    request: int = 0
    stream: bool = False
    overhead_s: float = 0.0


class _Known(msgspec.Struct):
    """One model at one route: its variants that have it, and whether one of them declares its features."""

    entry: ModelEntry
    able: tuple[Variant, ...]
    declares: bool
    api: Api


class Inference:
    """What requests to one manager's models become.

    Args:
        manager: routes and leases.
        on_finished: told of every request that reached a model; for metrics.
        on_first_token: told of each stream's first token, with the seconds since its engine was asked.
    """

    def __init__(
        self,
        manager: EngineManager,
        on_finished: Callable[[Finished], None] = lambda _: None,
        on_first_token: Callable[[Lease, float], None] = lambda *_: None,
    ) -> None:
        self.manager = manager
        self._on_finished = on_finished
        self._on_first_token = on_first_token
        self._supported: dict[str, tuple[Variant, frozenset[str]]] = {}
        self._known: dict[tuple[str, str], _Known] = {}
        self._route = manager.route
        self._heads: dict[tuple[Endpoint, str], bytes] = {}

    def want(self, path: str, body: DecodedBody) -> Wanted:
        """Who may serve ``body`` at ``path``; needs nothing but the settings and the plugins.

        Raises:
            InvalidRequest, ModelNotFound, EndpointNotSupported, ContextLengthExceeded: see each.
        """
        model, stream = body.model, body.stream
        entry = self.manager.catalog.resolve(model)
        known = self._known.get((entry.name, path))
        if known is None or known.entry is not entry:
            known = self._learn(entry, path)
        fitting = known.able
        if known.declares:
            fitting = tuple(
                v for v in fitting if v.features is None or _has(v.features, path, body)
            )
            if not fitting:
                raise _lacks_feature(path, body, entry)
        request = EngineRequest(path, body.object, stream)
        return Wanted(request, body, known.api, self._route(request, entry, fitting))

    def check_allowed(self, visitor: Visitor, model: str) -> None:
        """Whether ``visitor`` may use ``model``; what it may not use does not exist for it.

        Raises:
            ModelNotFound: it may not, or there is none; the names that it may use are in the message.
        """
        if visitor.models is None:
            return
        catalog = self.manager.catalog
        with suppress(EngineryError):
            entry = catalog.resolve(model)
            if visitor.may_use(entry.name, entry.aliases):
                return
        mine = ", ".join(sorted(visitor.models)) or "none"
        raise ModelNotFound(f"no model {model!r}; with this key: {mine}", param="model")

    def outgoing(self, wanted: Wanted, lease: Lease) -> Outgoing:
        """What the leased engine gets.

        Raises:
            EngineryError: the plugin refuses the request, or failed.
        """
        hooks, variant, request = lease.hooks, lease.variant, wanted.request
        changed = None
        if hooks.transforms_requests:
            changed = hooks.transform_request(request, variant)
        transform = None
        if hooks.transforms_responses:
            transform = hooks.transform_response(request, variant)
        folded = (
            hooks.may_prefer_streams
            and not request.stream
            and wanted.api != "other"
            and wanted.route.entry.limits.on_disconnect == "cancel"
            and hooks.prefers_stream(request, variant)
        )
        name = variant.body_model
        if changed is None and not folded:
            body = wanted.body
            same = body.object["model"] == name
            return Outgoing(body.raw if same else body.splice_model(name), transform=transform)
        object_ = {**(request.body if changed is None else changed), "model": name}
        if folded:
            object_.update(streaming_fields(wanted.api, object_))
        return Outgoing(encode_made(object_), folded, transform)

    def head(
        self,
        endpoint: Endpoint,
        path: str,
        length: int,
        passed: Mapping[bytes, bytes],
        own: bytes,
    ) -> bytes:
        """The head of the request to the engine.

        Made from scratch: nothing of the client's but ``passed``, never a credential of its. ``own`` are lines of
        ours, each with its CRLF.
        """
        first = self._heads.get((endpoint, path))
        if first is None:
            if len(self._heads) > 1000:
                self._heads.clear()  # engines come and go, each with a port of its own
            key = endpoint.api_key
            first = self._heads[endpoint, path] = (
                f"POST {endpoint.prefix}{path} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
                f"{'' if key is None else f'Authorization: Bearer {key}' + chr(13) + chr(10)}"
                "Content-Type: application/json\r\n"
            ).encode()
        more = b"".join([b"%b: %b\r\n" % field for field in passed.items()]) if passed else b""
        return b"%b%b%bContent-Length: %d\r\n\r\n" % (first, more, own, length)

    def on_finished(self, done: Finished) -> None:
        """A request is over. Whoever counts may fail at it: the client's connection must go on."""
        try:
            self._on_finished(done)
        except Exception:
            log.exception("a request was not counted")

    def on_first_token(self, lease: Lease, first_byte_s: float) -> None:
        """A stream has begun. As with `on_finished`."""
        try:
            self._on_first_token(lease, first_byte_s)
        except Exception:
            log.exception("a first token was not told")

    def endpoints(self) -> frozenset[str]:
        """Every route that a model of the settings supports, as far as its plugin can be asked."""
        found: set[str] = set()
        for name in self.manager.catalog.names():
            try:
                for variant in self.manager.catalog.resolve(name).variants:
                    found |= self._endpoints(variant)
            except EngineryError:
                continue  # its own requests tell what is wrong with it
        return frozenset(found)

    def forget(self) -> None:
        """Models are others now: what was remembered of them is looked up again."""
        self._supported.clear()
        self._known.clear()

    def hooks_of(self, entry: ModelEntry) -> EngineHooks:
        """The plugin of a model."""
        return self.manager.registry.hooks(entry.variants[0].engine_type)

    # -- inside ------------------------------------------------------------------------------------

    def _learn(self, entry: ModelEntry, path: str) -> _Known:
        """What is the same for all requests to a model at a route; an entry never changes."""
        able = tuple(variant for variant in entry.variants if path in self._endpoints(variant))
        if not able:
            raise self._not_supported(path, entry)
        declares = any(variant.features is not None for variant in able)
        found = self._known[entry.name, path] = _Known(entry, able, declares, api_of(path))
        return found

    def _endpoints(self, variant: Variant) -> frozenset[str]:
        known = self._supported.get(variant.id)
        if known is not None and known[0] is variant:
            return known[1]
        hooks = self.manager.registry.hooks(variant.engine_type)
        found = frozenset(hooks.get_supported_endpoints(variant))
        self._supported[variant.id] = variant, found
        return found

    def _not_supported(self, path: str, entry: ModelEntry) -> EndpointNotSupported:
        has = sorted({path for variant in entry.variants for path in self._endpoints(variant)})
        return EndpointNotSupported(f"{entry.name} has no {path}; it has {', '.join(has)}")


def _has(features: frozenset[str], path: str, body: DecodedBody) -> bool:
    return _FEATURES.get(path, "chat") in features and (
        "tools" in features or not body.get("tools")
    )


def _lacks_feature(path: str, body: DecodedBody, entry: ModelEntry) -> EngineryError:
    wanted = _FEATURES.get(path, "chat")
    declared = sorted({name for variant in entry.variants for name in variant.features or ()})
    if wanted in declared and body.get("tools"):
        return InvalidRequest(
            f"{entry.name} takes no tools; it has {', '.join(declared)}", param="tools"
        )
    return EndpointNotSupported(
        f"{entry.name} has no {wanted}, which {path} needs; it has {', '.join(declared) or 'nothing'}"
    )
