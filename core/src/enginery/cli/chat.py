"""One streamed chat through an `EngineClient`: text as it comes, and how fast it came.

Knows: chat chunks. Does not know: which engine answers, or who prints.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from enginery.api.sse import SSEDecoder
from enginery.engine.client import EngineClient, PluginEngineClient
from enginery.errors import BadEngineReply, EngineCrashed, EngineError, EngineryError
from enginery.values import JSONObject

__all__ = ["Timing", "stream_chat"]

SHORTEST_RATE = 0.002
"""Seconds below which tokens came in one piece, and their rate would say nothing."""


@dataclass(slots=True)
class Timing:
    """Seconds of one reply. ``tokens`` is the engine's count, or the chunks' where it has none."""

    ttft: float | None = None
    total: float = 0.0
    tokens: int = 0
    prompt_tokens: int | None = None
    finish_reason: str | None = None

    def __str__(self) -> str:
        if self.ttft is None:
            return "no tokens"
        spent = self.total - self.ttft
        # the first token's time is the prompt's
        measurable = spent >= SHORTEST_RATE and self.tokens > 1
        rate = f"{(self.tokens - 1) / spent:.0f} tokens/s" if measurable else ""
        first = f"first token after {1000 * self.ttft:.0f} ms"
        return ", ".join(part for part in (f"{self.tokens} tokens", first, rate) if part)


async def stream_chat(
    client: EngineClient,
    session: aiohttp.ClientSession,
    messages: list[JSONObject],
    timing: Timing,
    **parameters: Any,
) -> AsyncIterator[str]:
    """Pieces of the reply's text, as they come; ``timing`` is filled in on the way.

    Raises:
        EngineError: the engine answered with an error, or broke off.
    """
    body = {
        "model": client.variant.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in parameters.items() if value is not None},
    }
    began = time.perf_counter()
    async with await client.forward_request(session, "", body) as response:
        if response.status != 200:
            raise _engine_error(client, response.status, await response.read())
        if response.content_type == "application/json":  # a server that does not stream
            text = _whole(client, await response.read(), timing)
            timing.ttft = timing.total = time.perf_counter() - began
            yield text
            return
        decoder = SSEDecoder()
        try:
            async for data in response.content.iter_any():
                for event in decoder.feed(data):
                    if event.data == "[DONE]":
                        continue
                    text = _take(event.data, timing)
                    timing.total = time.perf_counter() - began
                    if text:
                        timing.ttft = timing.ttft or timing.total
                        yield text
        except aiohttp.ClientError as error:
            raise await _why(client, error) from error
    if timing.finish_reason is None:
        raise await _why(client, EOFError("the stream ended before the reply was complete"))


async def _why(client: EngineClient, error: Exception) -> EngineryError:
    if isinstance(client, PluginEngineClient):
        return await client.why_broken(error)
    return EngineCrashed(f"{client.variant.id} broke off: {error}")


def _whole(client: EngineClient, body: bytes, timing: Timing) -> str:
    """The text of a reply that came in one piece."""
    try:
        reply = msgspec.json.decode(body)
        choice = reply["choices"][0]
        usage = reply.get("usage") or {}
        timing.tokens = usage.get("completion_tokens", 0)
        timing.prompt_tokens = usage.get("prompt_tokens")
        timing.finish_reason = choice.get("finish_reason")
        return str(choice["message"]["content"] or "")
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadEngineReply(
            f"{client.variant.id} answered JSON that is no chat reply: {body[:200].decode('utf-8', 'replace')}"
        ) from error


def _take(data: str, timing: Timing) -> str:
    """The text of one chunk; counts and finish reason go to ``timing``."""
    try:
        chunk = msgspec.json.decode(data)
        if "error" in chunk:
            raise EngineError(str(chunk["error"].get("message", chunk["error"])))
        usage = chunk.get("usage")
        if usage:
            timing.tokens = usage["completion_tokens"]
            timing.prompt_tokens = usage["prompt_tokens"]
        text = ""
        for choice in chunk["choices"]:
            timing.finish_reason = choice.get("finish_reason") or timing.finish_reason
            text += choice["delta"].get("content") or ""
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadEngineReply(f"not a chat chunk: {data[:200]}") from error
    if text and not usage:
        timing.tokens += 1
    return text


def _engine_error(client: EngineClient, status: int, body: bytes) -> EngineError:
    try:
        message = str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        message = body[:500].decode("utf-8", "replace")
    return EngineError(f"{client.variant.id} answered {status}: {message}")
