"""Sending a reply: its pace, its frames, and death in the middle of a stream.

Knows: time to first token, inter-token latency, the order of a stream's frames. Does not know: how the
reply came about, or who waits for it. Runs inside a slot; when the client leaves, aiohttp cancels it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from enginery.api import openai
from enginery.api.sse import DONE, encode_event
from enginery_mock.generation import CHAT_PATH, Generation
from enginery_mock.replies import Reply

__all__ = ["Pace", "frames", "send_stream", "send_whole"]

KILLED = 137  # what a shell reports for SIGKILL
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to the first token and before each further one; the frame after which to die.

    ``on_token``, where there is one, is called after each token, and need not return.
    """

    ttft: float = 0.0
    itl: float = 0.0
    die_at_frame: int | None = None
    on_token: Callable[[], None] | None = None


async def send_whole(
    request: web.Request,  # noqa: ARG001  # the same signature as `send_stream`
    wanted: Generation,
    reply: Reply,
    model: str,
    pace: Pace,
) -> web.Response:
    """The whole reply at once, after the time that its tokens take."""
    if pace.on_token is None:
        await asyncio.sleep(pace.ttft + pace.itl * max(0, len(reply.pieces) - 1))
    else:  # other requests generate at the same time, so the tokens must count at theirs
        pause = pace.ttft
        for _ in reply.pieces:
            await asyncio.sleep(pause)
            pace.on_token()
            pause = pace.itl
    counts = openai.usage(wanted.prompt_tokens, len(reply.pieces))
    created = int(time.time())
    if wanted.path == CHAT_PATH:
        body = openai.chat_completion(
            id=f"chatcmpl-{reply.id}",
            created=created,
            model=model,
            content=reply.text,
            finish_reason=reply.finish_reason,
            usage=counts,
        )
    else:
        body = openai.text_completion(
            id=f"cmpl-{reply.id}",
            created=created,
            model=model,
            text=reply.text,
            finish_reason=reply.finish_reason,
            usage=counts,
        )
    return web.json_response(body)


async def send_stream(
    request: web.Request, wanted: Generation, reply: Reply, model: str, pace: Pace
) -> web.StreamResponse:
    """One frame for each token, at its time; status and headers go out with the first."""
    response = web.StreamResponse(headers=STREAM_HEADERS)
    await asyncio.sleep(pace.ttft)
    await response.prepare(request)
    pause = 0.0  # the first token came with `ttft`
    for number, (is_token, frame) in enumerate(frames(wanted, reply, model, int(time.time())), 1):
        if is_token:
            # Also without a pause: a long reply must not keep the others from the event loop.
            await asyncio.sleep(pause)
            pause = pace.itl
        await response.write(frame)
        if is_token and pace.on_token is not None:
            pace.on_token()
        if number == pace.die_at_frame:
            os._exit(KILLED)
    await response.write_eof()
    return response


def frames(
    wanted: Generation, reply: Reply, model: str, created: int
) -> Iterator[tuple[bool, bytes]]:
    """The frames of a stream in order, each with True when it carries a token.

    A chat begins with a frame that only names the role; then one for each token, one for the reason to
    finish, one for the usage if asked for, and ``[DONE]``.
    """
    counts = openai.usage(wanted.prompt_tokens, len(reply.pieces)) if wanted.include_usage else None
    if wanted.path == CHAT_PATH:
        chunk: Callable[..., dict[str, Any]] = partial(
            openai.chat_chunk, id=f"chatcmpl-{reply.id}", created=created, model=model
        )
        yield False, _frame(chunk(delta={"role": "assistant", "content": ""}))
        for piece in reply.pieces:
            yield True, _frame(chunk(delta={"content": piece}))
        yield False, _frame(chunk(delta={}, finish_reason=reply.finish_reason))
    else:
        chunk = partial(openai.text_chunk, id=f"cmpl-{reply.id}", created=created, model=model)
        for piece in reply.pieces:
            yield True, _frame(chunk(text=piece))
        yield False, _frame(chunk(text="", finish_reason=reply.finish_reason))
    if counts is not None:
        yield False, _frame(chunk(usage=counts))
    yield False, DONE


def _frame(chunk: dict[str, Any]) -> bytes:
    return encode_event(json.dumps(chunk, separators=(",", ":")))
