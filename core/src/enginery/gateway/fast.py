"""The short way: a complete POST goes to its engine in the call in which it came.

Knows: how to tell, from bytes alone, that a request needs nothing but routing and a relay. Says no to all
else, without a trace: whatever it refuses takes the long way (`handler`) and is answered there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Protocol

from enginery.api.body import decode_body
from enginery.api.endings import api_of
from enginery.errors import EngineryError
from enginery.gateway.answers import raw_error
from enginery.gateway.inference import Finished, Inference, Wanted
from enginery.gateway.relay import Client, Relay, Reply, Sent
from enginery.gateway.request_head import request_id_of
from enginery.gateway.upstreams import UpstreamPool
from enginery.gateway.watch import Watch

__all__ = ["FastPath"]

_ROUTE = re.compile(
    rb"POST (/v1/(?:chat/completions|completions|embeddings|responses|messages)) HTTP/1\.1\r\n"
)
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\r\n")
_MAX_HEAD = 8190
_JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
_LONG_WAY = frozenset(
    {
        *(b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer"),
        *(b"x-enginery-progress", b"cookie", b"origin"),
    }
)
_PASSED = frozenset({b"accept", b"traceparent"})
_CLOSING = frozenset({b"close"})


class Ended(Protocol):
    """Called when the reply is written."""

    def __call__(self, *, keep_alive: bool) -> None:
        """``keep_alive``: the connection may be used again."""
        ...


class FastPath:
    """Begins requests that need no waiting.

    Args:
        inference, pool, watch: as for the long way.
        admits: whether a request with these headers may pass without a closer look.
    """

    def __init__(
        self,
        inference: Inference,
        pool: UpstreamPool,
        watch: Watch,
        admits: Callable[[dict[bytes, bytes]], bool],
    ) -> None:
        self._inference = inference
        self._pool = pool
        self._watch = watch
        self._admits = admits
        self._loop = asyncio.get_running_loop()

    def measure(self, data: bytes) -> int:
        """The length of the request that ``data`` begins with, head and body; 0: not for here.

        While its head is incomplete, one byte more than there is.
        """
        if not data.startswith(b"POST /v1/"):
            return 0
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            return len(data) + 1 if len(data) < _MAX_HEAD else 0
        head = data[: end + 2].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0 or head.find(b"\r\ncontent-length:", at + 1) >= 0:
            return 0
        length = head[at + 17 : head.index(b"\r\n", at + 2)].strip()
        return end + 4 + int(length) if length.isdigit() and len(length) < 10 else 0

    def begin(self, client: Client, request: bytes, over: Ended) -> bool:
        """Send ``request`` on its way; False: nothing has happened, and the long way is to be taken."""
        route = _ROUTE.match(request)
        if route is None:
            return False
        end = request.find(b"\r\n\r\n")
        fields = _read_fields(request, route.end(), end + 2)
        if fields is None or not self._admits(fields):
            return False
        path = route[1].decode()
        try:
            wanted = self._inference.want(path, decode_body(request[end + 4 :]))
        except EngineryError:
            return False
        lease = self._inference.manager.try_lease(wanted.route)
        if lease is None:
            return False
        try:
            outgoing = self._inference.outgoing(wanted, lease)
            upstream = None
            if outgoing.relayed:
                upstream = self._pool.take(lease.endpoint, self._loop.time())
            if upstream is None:
                lease.release("rejected")
                return False
        except EngineryError:
            lease.release("rejected")
            return False
        id_ = fields.get(b"x-request-id")
        request_id = request_id_of(None if id_ is None else id_.decode("latin-1")).encode()
        limits = wanted.entry.limits
        sent = Sent(
            api_of(path),
            "",
            extra=b"x-request-id: %b\r\n" % request_id,
            cancel=limits.on_disconnect == "cancel",
            deadlines=self._watch.deadlines(limits),
        )
        passed = {name: fields[name] for name in _PASSED if name in fields}
        head = self._inference.head(lease.endpoint, path, len(outgoing.payload), passed, request_id)

        def on_done(result: Reply | EngineryError | None) -> None:
            self._finished(path, wanted, relay, result)
            if isinstance(result, EngineryError) and client.transport is not None:
                client.transport.write(raw_error(result, sent))
            over(
                keep_alive=isinstance(result, EngineryError)
                or (result is not None and result.keep_alive)
            )

        relay = Relay(client, lease, upstream, sent, on_done, self._watch.relays)
        upstream.send(relay, head, outgoing.payload)
        return True

    def _finished(
        self, path: str, wanted: Wanted, relay: Relay, result: Reply | EngineryError | None
    ) -> None:
        lease = relay.lease
        reply = result if isinstance(result, Reply) else None
        error = result if isinstance(result, EngineryError) else None
        name = wanted.entry.name
        self._inference.on_finished(
            Finished(path, name, lease.variant, lease.queue_s, lease.swap_s, reply, error)
        )


def _read_fields(request: bytes, start: int, end: int) -> dict[bytes, bytes] | None:
    """The head's fields by lower-case name; None for one that the long way must look at."""
    fields: dict[bytes, bytes] = {}
    at = start
    while at < end:
        found = _FIELD.match(request, at, end)
        if found is None:
            return None
        name = found[1].lower()
        if name in fields or name in _LONG_WAY:
            return None
        fields[name] = found[2]
        at = found.end()
    if fields.get(b"content-type", b"").lower() not in _JSON or b"host" not in fields:
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return fields
