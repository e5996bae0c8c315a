"""The framework's own answers to the hooks that a plugin leaves out.

Knows: what is true of any OpenAI-compatible server. Does not know: a particular engine. The answers
are sound rather than clever: a token bound that holds for every byte-level tokenizer, a health check
that believes only what a server says about itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from enginery.enginecore.served import SERVER_NAME
from enginery.errors import BadEngineReply, EngineUnreachable
from enginery.hookspecs import hookimpl
from enginery.values import (
    EngineReply,
    EngineRequest,
    Health,
    RunningEngine,
    TokenEstimate,
    Variant,
)

__all__ = ["DEFAULT_ENDPOINTS", "EngineDefaults", "prompt_bytes"]

DEFAULT_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models")

TEMPLATE_BYTES_PER_MESSAGE = 128
"""A chat template adds role markers and sometimes a default system prompt: 6 to 28 tokens for an
empty message over the templates measured, so 128 bytes is a wide but not boundless allowance."""

SPECIAL_TOKENS = 3
"""A tokenizer adds at most BOS, EOS or SEP, and one leading space (measured on 12 vocabularies)."""

_NOT_TEXT = frozenset(
    (
        *("image_url", "input_image", "image", "video", "video_url", "input_video"),
        *("input_audio", "audio", "audio_url", "file", "input_file", "document"),
    )
)

_TEXT = ("messages", "prompt", "suffix", "input", "system", "instructions", "query")
_JSON = ("tools", "functions", "response_format", "chat_template_kwargs", "documents")
"""Fields that a template writes out as JSON; a ``type`` in them is a schema's, not an image's."""


def prompt_bytes(body: Mapping[str, Any]) -> tuple[int, bool]:
    """UTF-8 bytes of everything in ``body`` that can reach the prompt, and whether it is all text.

    Prose counts as it is; structure as JSON indented by four, keys and escapes included, because
    that is the widest form in which templates write it. A list of integers is a list of tokens.
    """
    total, text_only = 0, True
    for field in (*_TEXT, *_JSON):
        if body.get(field) is not None:
            for size, is_text in _sizes(body[field], is_json=field in _JSON):
                total += size
                text_only = text_only and is_text
    messages = body.get("messages")
    if isinstance(messages, list):
        total += TEMPLATE_BYTES_PER_MESSAGE * (len(messages) + 1)
    if body.get("tools") or body.get("functions"):
        total += 8 * TEMPLATE_BYTES_PER_MESSAGE  # the template's own words about calling tools
    return total, text_only


def _sizes(value: Any, *, is_json: bool) -> Iterator[tuple[int, bool]]:
    """Sizes in bytes of the pieces of a JSON value, without recursion: bodies may be deep."""
    stack = [(value, is_json, 1)]
    while stack:
        item, quoted, depth = stack.pop()
        if isinstance(item, str):
            yield _quoted_bytes(item) if quoted else _utf8_bytes(item), True
        elif isinstance(item, list) and not quoted and all(type(x) is int for x in item):
            yield len(item), True
        elif isinstance(item, list):
            yield _structure_bytes(item, depth), True
            stack.extend((inner, quoted, depth + 1) for inner in item)
        elif isinstance(item, dict):
            kind = item.get("type")
            if not is_json and isinstance(kind, str) and kind in _NOT_TEXT:
                yield 0, False
                continue
            yield _structure_bytes(item, depth), True
            # what a tool answered is prose to some templates, a JSON string to others
            prose = (
                () if quoted or item.get("role") in {"tool", "function"} else ("content", "text")
            )
            for key, inner in item.items():
                yield _quoted_bytes(key), True
                stack.append((inner, key not in prose, depth + 1))
        else:
            yield len(str(item)), True  # None and False are as long as null and false, or longer


def _structure_bytes(container: Mapping[str, Any] | Sequence[Any], depth: int) -> int:
    """Brackets, and for each item a line end, an indentation, a comma, a colon and a space."""
    return 3 + 4 * depth + len(container) * (4 * depth + 4)


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _quoted_bytes(text: str) -> int:
    """As a JSON string; Jinja's own ``tojson`` also escapes what HTML would (six bytes for one)."""
    return _utf8_bytes(json.dumps(text, ensure_ascii=False)) + 5 * sum(map(text.count, "<>&'"))


class EngineDefaults:
    """Registered before every plugin; called when the plugin has no answer.

    One object per plugin. It remembers at which levels a variant's core server can sleep: only the backend
    knows, and it lives in that server.
    """

    def __init__(self) -> None:
        self._levels: dict[str, tuple[int, ...]] = {}

    @hookimpl
    def get_supported_endpoints(self) -> Sequence[str]:
        """Chat completions, completions and models."""
        return DEFAULT_ENDPOINTS

    @hookimpl
    def estimate_tokens(self, request: EngineRequest) -> TokenEstimate:
        """One token to one token per byte. ``high`` None for images, audio and files."""
        size, text_only = prompt_bytes(request.body)
        return TokenEstimate(0, size + SPECIAL_TOKENS if text_only else None)

    @hookimpl
    def prefers_stream(self) -> bool:
        """False: a non-stream request goes out as it came."""
        return False

    @hookimpl
    def sleep_levels(self, variant: Variant) -> Sequence[int]:
        """What a core server said of its backend when it was last seen ready; others cannot sleep."""
        return self._levels.get(variant.id, ())

    @hookimpl
    async def check_health(self, engine: RunningEngine) -> Health:
        """Ready on 2xx from the health path; servers without one are asked for ``/v1/models``.

        503 means loading, as llama.cpp and vLLM do it; 401 means that it is not ours.
        """
        try:
            reply = await engine.get(engine.health_path)
            if reply.status in {404, 405, 501} and engine.health_path != "/v1/models":
                reply = await engine.get("/v1/models")
        except EngineUnreachable as error:
            return Health("starting", detail=str(error))
        if 200 <= reply.status < 300:
            return self._served_health(engine.variant, reply) or Health("ready")
        detail = f"HTTP {reply.status}: {_reason(reply.body)}"
        # servers answer 503, some 500 or 502, while they load; but for 429 a 4xx will not get better
        loading = reply.status >= 500 or reply.status == 429
        return Health("starting" if loading else "failed", detail=detail)

    def _served_health(self, variant: Variant, reply: EngineReply) -> Health | None:
        """A core server tells more with its health: whether it sleeps, and at which levels it can."""
        if not reply.headers.get("server", "").startswith(SERVER_NAME):
            return None
        try:
            said = reply.json()
            self._levels[variant.id] = tuple(int(level) for level in said["sleep_levels"])
            return Health("asleep" if said["is_sleeping"] is True else "ready")
        except (ValueError, KeyError, TypeError):
            return None

    # -- for plugins that bring a backend and no hooks of these names ---------------------------

    async def sleep_served(self, engine: RunningEngine, level: int) -> None:
        """Let a core server sleep; returns when the memory is back."""
        await _told(engine, f"/sleep?level={level}")

    async def wake_served(self, engine: RunningEngine) -> None:
        """Wake a core server; returns when it serves again."""
        await _told(engine, "/wake_up")


async def _told(engine: RunningEngine, path: str) -> None:
    reply = await engine.post(path, {})
    if reply.status != 200:
        raise BadEngineReply(f"POST {path}: HTTP {reply.status}: {_reason(reply.body)}")


def _reason(body: bytes) -> str:
    """The message in an OpenAI-shaped error body, else the body's first 200 bytes as text."""
    try:
        found = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:200].decode("utf-8", "replace")
    return str(found)
