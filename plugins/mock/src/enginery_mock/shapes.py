"""A reply in the shape of each API, whole or as the frames of a stream. Pure.

Knows: which builder of `enginery.api` makes what, and the order of frames. Does not know: the pace at
which they go out, or sockets. A frame is one event with its bytes, and True when it carries a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from enginery.api import anthropic, openai, responses
from enginery.api.sse import DONE, encode_event
from enginery_mock.conversations import (
    CHAT_PATH,
    COMPLETIONS_PATH,
    MESSAGES_PATH,
    RESPONSES_PATH,
)
from enginery_mock.generation import Generation
from enginery_mock.replies import Reply

__all__ = ["Frame", "frames", "whole"]

Frame = tuple[bool, bytes]


def whole(wanted: Generation, reply: Reply, model: str, created: int) -> dict[str, Any]:
    """The reply as one object; ``created`` in seconds since 1970."""
    return _WHOLE[wanted.path](wanted, reply, model, created)


def frames(wanted: Generation, reply: Reply, model: str, created: int) -> Iterator[Frame]:
    """The frames of a stream in order."""
    return _FRAMES[wanted.path](wanted, reply, model, created)


# -- chat completions and completions --------------------------------------------------------------


def _chat(wanted: Generation, reply: Reply, model: str, created: int) -> dict[str, Any]:
    whole = openai.chat_completion(
        id=f"chatcmpl-{reply.id}",
        created=created,
        model=model,
        content=None if reply.tool else reply.text,
        finish_reason=reply.finish_reason,
        usage=openai.usage(wanted.prompt_tokens, len(reply.pieces)),
        tool_calls=[openai.tool_call(f"call_{reply.id}", reply.tool, reply.text)]
        if reply.tool
        else (),
    )
    return _told(whole, reply)


def _chat_frames(wanted: Generation, reply: Reply, model: str, created: int) -> Iterator[Frame]:
    """A frame that names the role, one for each token, one with the reason, usage if asked for, the end."""
    chunk: Callable[..., dict[str, Any]] = partial(
        openai.chat_chunk, id=f"chatcmpl-{reply.id}", created=created, model=model
    )
    content = None if reply.tool else ""
    yield False, _frame(chunk(delta={"role": "assistant", "content": content}))
    if reply.tool:
        call = openai.tool_call(f"call_{reply.id}", reply.tool, "", index=0)
        yield False, _frame(chunk(delta={"tool_calls": [call]}))
    for piece in reply.pieces:
        more = {"index": 0, "function": {"arguments": piece}}
        yield (
            True,
            _frame(chunk(delta={"tool_calls": [more]} if reply.tool else {"content": piece})),
        )
    yield False, _frame(_told(chunk(delta={}, finish_reason=reply.finish_reason), reply))
    yield from _end(chunk, wanted, reply)


def _text(wanted: Generation, reply: Reply, model: str, created: int) -> dict[str, Any]:
    whole = openai.text_completion(
        id=f"cmpl-{reply.id}",
        created=created,
        model=model,
        text=reply.text,
        finish_reason=reply.finish_reason,
        usage=openai.usage(wanted.prompt_tokens, len(reply.pieces)),
    )
    return _told(whole, reply)


def _text_frames(wanted: Generation, reply: Reply, model: str, created: int) -> Iterator[Frame]:
    """As a chat's, without a first frame for the role."""
    chunk: Callable[..., dict[str, Any]] = partial(
        openai.text_chunk, id=f"cmpl-{reply.id}", created=created, model=model
    )
    for piece in reply.pieces:
        yield True, _frame(chunk(text=piece))
    yield False, _frame(_told(chunk(text="", finish_reason=reply.finish_reason), reply))
    yield from _end(chunk, wanted, reply)


def _end(chunk: Callable[..., dict[str, Any]], wanted: Generation, reply: Reply) -> Iterator[Frame]:
    if wanted.include_usage:
        yield False, _frame(chunk(usage=openai.usage(wanted.prompt_tokens, len(reply.pieces))))
    yield False, DONE


def _told(ended: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Add `stop_reason`, as vLLM has it: the stop string, where that was the end."""
    if reply.stop is not None:
        ended["choices"][0]["stop_reason"] = reply.stop
    return ended


def _frame(chunk: dict[str, Any]) -> bytes:
    return encode_event(json.dumps(chunk, separators=(",", ":")))


# -- responses -------------------------------------------------------------------------------------


def _response(wanted: Generation, reply: Reply, model: str, created: int) -> dict[str, Any]:
    cut = reply.finish_reason == "length"
    return responses.response(
        id=f"resp_{reply.id}",
        created_at=created,
        model=model,
        status="incomplete" if cut else "completed",
        output=[_item(reply, "incomplete" if cut else "completed")],
        usage=responses.usage(wanted.prompt_tokens, len(reply.pieces)),
    )


def _item(reply: Reply, status: responses.Status) -> dict[str, Any]:
    begun = status == "in_progress"
    if reply.tool is None:
        return responses.message(f"msg_{reply.id}", None if begun else reply.text, status)
    arguments = "" if begun else reply.text
    return responses.function_call(
        f"fc_{reply.id}", f"call_{reply.id}", reply.tool, arguments, status
    )


def _response_frames(wanted: Generation, reply: Reply, model: str, created: int) -> Iterator[Frame]:
    """Two frames that open the response, those of its one item, and the whole response at the end."""
    events = responses.Events()
    begun = responses.response(
        id=f"resp_{reply.id}", created_at=created, model=model, status="in_progress"
    )
    ended = _response(wanted, reply, model, created)
    item = ended["output"][0]
    opening = [*events.begun(begun), events.added(0, _item(reply, "in_progress"))]
    if reply.tool is None:
        opening.append(events.text_added(0, item["id"]))
    yield from ((False, responses.encode(event)) for event in opening)
    delta = events.text_delta if reply.tool is None else events.arguments_delta
    for piece in reply.pieces:
        yield True, responses.encode(delta(0, item["id"], piece))
    if reply.tool is None:
        closing = events.text_done(0, item["id"], reply.text)
    else:
        closing = [events.arguments_done(0, item["id"], reply.tool, reply.text)]
    closing += [events.done(0, item), events.ended(ended)]
    yield from ((False, responses.encode(event)) for event in closing)


# -- messages --------------------------------------------------------------------------------------


def _stop_reason(reply: Reply) -> anthropic.StopReason:
    if reply.stop is not None:
        return "stop_sequence"
    if reply.finish_reason == "length":
        return "max_tokens"
    return "end_turn" if reply.tool is None else "tool_use"


def _message(wanted: Generation, reply: Reply, model: str, created: int) -> dict[str, Any]:  # noqa: ARG001  # one signature for all
    block = anthropic.text_block(reply.text)
    if reply.tool is not None:
        block = anthropic.tool_use_block(f"toolu_{reply.id}", reply.tool, _input(reply.text))
    return anthropic.message(
        id=f"msg_{reply.id}",
        model=model,
        content=[block],
        stop_reason=_stop_reason(reply),
        stop_sequence=reply.stop,
        usage=anthropic.usage(wanted.prompt_tokens, len(reply.pieces)),
    )


def _input(arguments: str) -> dict[str, Any]:
    """Arguments as an object; those that were cut are empty."""
    try:
        read = json.loads(arguments)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _message_frames(wanted: Generation, reply: Reply, model: str, created: int) -> Iterator[Frame]:
    """The start of the message, its one block with a frame for each token, and the end."""
    ended = _message(wanted, reply, model, created)
    begun = anthropic.message(
        id=ended["id"],
        model=model,
        content=(),
        stop_reason=None,
        usage=anthropic.usage(wanted.prompt_tokens, 0),
    )
    empty: dict[str, Any] = {"input": {}} if reply.tool else {"text": ""}
    opening = [
        anthropic.message_start(begun),
        anthropic.block_start(0, {**ended["content"][0], **empty}),
    ]
    yield from ((False, anthropic.encode(event)) for event in opening)
    delta = anthropic.input_delta if reply.tool else anthropic.text_delta
    for piece in reply.pieces:
        yield True, anthropic.encode(delta(0, piece))
    closing = [
        anthropic.block_stop(0),
        anthropic.message_delta(
            _stop_reason(reply), ended["usage"], stop_sequence=ended["stop_sequence"]
        ),
        anthropic.message_stop(),
    ]
    yield from ((False, anthropic.encode(event)) for event in closing)


_WHOLE: dict[str, Callable[[Generation, Reply, str, int], dict[str, Any]]] = {
    CHAT_PATH: _chat,
    COMPLETIONS_PATH: _text,
    RESPONSES_PATH: _response,
    MESSAGES_PATH: _message,
}
_FRAMES: dict[str, Callable[[Generation, Reply, str, int], Iterator[Frame]]] = {
    CHAT_PATH: _chat_frames,
    COMPLETIONS_PATH: _text_frames,
    RESPONSES_PATH: _response_frames,
    MESSAGES_PATH: _message_frames,
}
