"""Sending a reply: its pace, and death in the middle of a stream.

Knows: time to first token, inter-token latency. Does not know: how the reply came about, what its frames
say (`shapes`), or who waits for it. Runs inside a slot; when the client leaves, aiohttp cancels it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from aiohttp import web

from enginery_mock.generation import Generation
from enginery_mock.halting import Work
from enginery_mock.replies import Reply
from enginery_mock.shapes import frames, whole

__all__ = ["Pace", "send_stream", "send_whole"]

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
    work: Work,
) -> web.Response:
    """The whole reply at once, after the time that its tokens take; what there is of it, if it is told to end."""
    if pace.on_token is None:
        begun = time.monotonic()
        if await work.rest(pace.ttft + pace.itl * max(0, len(reply.pieces) - 1)):
            reply = reply.ended(_tokens_in(time.monotonic() - begun, pace))
    else:  # other requests generate at the same time, so the tokens must count at theirs
        pause = pace.ttft
        for number in range(len(reply.pieces)):
            if await work.rest(pause):
                reply = reply.ended(number)
                break
            pace.on_token()
            pause = pace.itl
    return web.json_response(whole(wanted, reply, model, int(time.time())))


async def send_stream(
    request: web.Request, wanted: Generation, reply: Reply, model: str, pace: Pace, work: Work
) -> web.StreamResponse:
    """One frame for each token, at its time; status and headers go out with the first.

    Told to end, it sends what comes after a reply that has no more tokens than it sent.
    """
    response = web.StreamResponse(headers=STREAM_HEADERS)
    over = await work.rest(pace.ttft)
    # A connection that closes is written to until aiohttp cancels us, which is a moment later.
    with contextlib.suppress(ConnectionResetError):
        await response.prepare(request)
        created = int(time.time())
        pause = 0.0  # the first token came with `ttft`
        tokens = sent = 0
        for is_token, frame in frames(wanted, reply, model, created):
            if is_token:
                # Also without a pause: a long reply must not keep the others from the event loop.
                over = over or await work.rest(pause)
                if over:
                    break
                pause = pace.itl
                tokens += 1
            await response.write(frame)
            sent += 1
            if is_token and pace.on_token is not None:
                pace.on_token()
            if sent == pace.die_at_frame:
                os._exit(KILLED)
        if over and tokens < len(reply.pieces):
            for _, frame in islice(frames(wanted, reply.ended(tokens), model, created), sent, None):
                await response.write(frame)
        await response.write_eof()
    return response


def _tokens_in(seconds: float, pace: Pace) -> int:
    if seconds < pace.ttft:
        return 0
    return 1 + int((seconds - pace.ttft) / pace.itl) if pace.itl else 1
