"""Whether the server that answers at an endpoint is the engine that we started there.

Knows: what the machine says (whose process listens), and what the per-spawn key says where the machine
cannot tell: on macOS, of engines that hide their descriptors, of containers. Does not know: health.

The proof by key: who has it is let in, and everybody else is turned away. The right key, none and wrong
ones come in random order, so that a stranger would have to guess which one is right. A server that lets
everybody in has proved nothing. It is still believed where nobody told it a key in the first place: then
its health is all there is.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from enum import Enum
from random import SystemRandom

from enginery.engine.launchers import EngineHandle
from enginery.engine.transport import HttpTransport
from enginery.errors import EngineError
from enginery.values import Command, Endpoint, JSONObject, Variant

__all__ = ["Whose", "told_by_key", "whose_server"]

WRONG_KEYS = 3
TIMEOUT = 5.0

PROBES: tuple[tuple[str, str, JSONObject | None], ...] = (
    ("GET", "/v1/models", None),
    # some servers show their models to everybody; nothing is generated for an empty body
    ("POST", "/v1/chat/completions", {}),
)


class Whose(Enum):
    """Whose the server is."""

    OURS = "ours"
    STRANGERS = "somebody else's"
    UNPROVEN = "nobody's to tell, as it has no key"
    UNKNOWN = "not known yet"


async def whose_server(
    handle: EngineHandle,
    variant: Variant,
    command: Command,
    endpoint: Endpoint,
    transport: HttpTransport,
) -> Whose:
    """Whose server answers at ``endpoint``: asked of the machine, else of the server itself."""
    # a container's listener is no child of ours
    owned = None if command.stop_argv else await handle.owns(endpoint)
    if owned is not None:
        return Whose.OURS if owned else Whose.STRANGERS
    told = await told_by_key(endpoint, transport)
    if told is Whose.UNPROVEN and _was_told_the_key(variant, command, endpoint):
        return Whose.STRANGERS
    return told


async def told_by_key(endpoint: Endpoint, transport: HttpTransport) -> Whose:
    """What the server at ``endpoint`` does with the key and without; `UNPROVEN`: the same."""
    if endpoint.api_key is None:
        return Whose.UNPROVEN
    size = len(endpoint.api_key)
    wrong = [secrets.token_urlsafe(size)[:size] for _ in range(WRONG_KEYS)]
    keys = [endpoint.api_key, None, *wrong]
    for method, path, body in PROBES:
        SystemRandom().shuffle(keys)
        refused = set()
        for key in keys:
            try:
                asked = replace(endpoint, api_key=key)
                reply = await transport.fetch(asked, method, path, body, TIMEOUT)
            except EngineError:
                return Whose.UNKNOWN
            if reply.status == 503:  # still loading, whatever the key
                return Whose.UNKNOWN
            if reply.status in {401, 403}:
                refused.add(key)
        if refused == {None, *wrong}:
            return Whose.OURS
        if refused:
            return Whose.STRANGERS
    return Whose.UNPROVEN


def _was_told_the_key(variant: Variant, command: Command, endpoint: Endpoint) -> bool:
    """Whether the plugin gave the key to a program that it knows."""
    if endpoint.api_key is None or (variant.binary and variant.args):
        return False
    words = (*command.argv, *command.env.values())
    return any(endpoint.api_key in word for word in words)
