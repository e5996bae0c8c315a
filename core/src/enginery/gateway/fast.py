"""The short way: a complete POST goes to its engine in the call in which it came.

Knows: how to tell, from bytes alone, that a request needs nothing but routing and a relay. Says no to all
else, without a trace: whatever it refuses takes the long way (`handler`) and is answered there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from enginery.api.body import decode_body
from enginery.api.endings import Api, api_of
from enginery.engine.seam import Outcome
from enginery.errors import EngineryError
from enginery.gateway.answers import raw_error
from enginery.gateway.inference import Finished, Inference
from enginery.gateway.limits import BodyBudget
from enginery.gateway.relay import Relay
from enginery.gateway.request_head import new_request_id_line, request_id_line
from enginery.gateway.sent import Client, Reply, Sent
from enginery.gateway.upstreams import UpstreamPool
from enginery.gateway.watch import Watch

__all__ = ["LONGEST", "FastPath"]

_ROUTE = re.compile(
    rb"POST (/v1/(?:chat/completions|completions|embeddings|responses|messages)) HTTP/1\.1\r\n"
)
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[ \t]*(\d{1,9})(?=[ \t]*\r\n)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\r\n")
_MAX_HEAD = 8190
_REMEMBERED = 1024
LONGEST = 1024 * 1024
"""A request that is longer takes the long way."""

_JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
_LONG_WAY = frozenset(
    {
        *(b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer"),
        *(b"x-enginery-progress", b"cookie", b"origin"),
    }
)
_PASSED = frozenset({b"accept", b"traceparent"})
_CLOSING = frozenset({b"close"})


Ended = Callable[[bool], None]
"""Called when the reply is written: whether the connection may be used again."""


@dataclass(slots=True)
class _Head:
    """What one head says, but for the length of its body."""

    path: str
    api: Api
    passed: dict[bytes, bytes]
    request_id: bytes | None

    @property
    def own(self) -> bool:
        """It has something that is another in each request, so it is not worth remembering."""
        return self.request_id is not None or b"traceparent" in self.passed


_REFUSED = _Head("", "other", {}, None)


class FastPath:
    """Begins requests that need no waiting.

    Args:
        inference, pool, watch, budget: as for the long way.
        admits: whether a request with these headers may pass without a closer look.
    """

    def __init__(
        self,
        inference: Inference,
        pool: UpstreamPool,
        watch: Watch,
        budget: BodyBudget,
        admits: Callable[[dict[bytes, bytes]], bool],
    ) -> None:
        self._inference = inference
        self._pool = pool
        self._watch = watch
        self._budget = budget
        self._admits = admits
        self._try_lease = inference.manager.try_lease
        self._relays = watch.relays
        self._heads: dict[bytes, _Head] = {}
        self.body_limit = LONGEST
        """Bytes of a body; the long way tells whoever sends more."""

    def forget(self) -> None:
        """What was admitted is looked at again: the rules have changed."""
        self._heads.clear()

    def measure(self, data: bytes) -> int:
        """The length of the one request that ``data`` begins with; 0 where that cannot be told here."""
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        length = None if end < 0 else _LENGTH.search(data, 0, end + 2)
        if length is None or not data.startswith(b"POST "):
            return 0
        head = data[:end].lower()
        plain = head.count(b"\ncontent-length") == 1 and b"\ntransfer-encoding" not in head
        return end + 4 + int(length[1]) if plain else 0

    def begin(self, client: Client, data: bytes, over: Ended) -> int:
        """Send the request that ``data`` begins with on its way.

        Returns its length, head and body. 0: nothing has happened, and the long way is to be taken.
        Negative: it goes on; so many bytes are needed to tell more.
        """
        if not data.startswith(b"POST /v1/"):
            return 0
        end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if end < 0:
            return -len(data) - 1 if len(data) < _MAX_HEAD else 0
        length = _LENGTH.search(data, 0, end + 2)
        if length is None:
            return 0
        # clients send the same head again and again, but for the length of its body
        key = data[: length.start(1)] + data[length.end(1) : end + 2]
        head = self._heads.get(key) or self._read(key)
        if head is _REFUSED:
            return 0
        size = end + 4 + int(length[1])
        if size - end - 4 > self.body_limit:
            return 0
        if size > len(data):
            return -size if size <= LONGEST else 0
        if self._budget.full:
            return 0
        return size if self._send(client, head, data[end + 4 : size], over) else 0

    def _read(self, key: bytes) -> _Head:
        """A head that was not seen before, without its length's digits."""
        head, route = _REFUSED, _ROUTE.match(key)
        fields = None if route is None else _read_fields(key, route.end())
        if route is not None and fields is not None and self._admits(fields):
            path = route[1].decode()
            passed = {name: fields[name] for name in _PASSED if name in fields}
            head = _Head(path, api_of(path), passed, fields.get(b"x-request-id"))
            if head.own:
                return head
        if len(self._heads) >= _REMEMBERED:
            self._heads.clear()
        self._heads[key] = head
        return head

    def _send(self, client: Client, head: _Head, body: bytes, over: Ended) -> bool:
        path, began, inference = head.path, monotonic(), self._inference
        try:
            wanted = inference.want(path, decode_body(body))
        except EngineryError:
            return False
        lease = self._try_lease(wanted.route)
        if lease is None:
            return False
        upstream = None
        try:
            outgoing = inference.outgoing(wanted, lease)
            if outgoing.relayed:
                upstream = self._pool.take(lease.endpoint, began)
        except EngineryError:
            return False
        finally:
            if upstream is None:  # whatever was raised
                lease.release(Outcome.REJECTED)
        if upstream is None:
            return False
        limits, payload = wanted.entry.limits, outgoing.payload
        given = head.request_id
        extra = new_request_id_line() if given is None else request_id_line(given)
        sent = Sent(  # by place: 0.2 µs
            head.api,
            "",
            extra,
            True,
            True,
            False,
            limits.on_disconnect == "cancel",
            self._watch.deadlines(limits),
            path,
            wanted.entry.name,
            wanted.request.stream,
            began,
            len(body),
            over,
        )
        first = inference.head(lease.endpoint, path, len(payload), head.passed, extra)
        self._budget.used += len(body)
        lease.reported = True
        relay = Relay(
            client, lease, upstream, sent, self._ended, self._relays, inference.on_first_token
        )
        upstream.send(relay, first, payload)
        return True

    def _ended(self, relay: Relay, result: Reply | EngineryError | None) -> None:
        sent, lease = relay.sent, relay.lease
        self._budget.used -= sent.size
        reply = error = None
        if type(result) is Reply:
            reply = result
        elif isinstance(result, EngineryError):
            error = result
        self._inference.on_finished(
            Finished(
                sent.path,
                sent.model,
                lease.variant,
                lease.queue_s,
                lease.swap_s,
                reply,
                error,
                lease.request_id,
                sent.stream,
                relay.began - sent.began,
            )
        )
        transport = relay.client.transport
        if error is not None and transport is not None:
            self._pool.outbox.put(transport.write, raw_error(error, sent))
        if sent.over is not None:
            sent.over(error is not None or (reply is not None and reply.keep_alive))


def _read_fields(head: bytes, start: int) -> dict[bytes, bytes] | None:
    """The head's fields by lower-case name; None for one that the long way must look at."""
    fields: dict[bytes, bytes] = {}
    at, end = start, len(head)
    while at < end:
        found = _FIELD.match(head, at)
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
