"""A core's outputs as OpenAI's replies: one object, or the frames of a stream.

Knows: what a frame holds, and how to write one for each token without building its dict anew. Does not know: HTTP,
connections, or where outputs come from. Pure.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from enginery.api.openai import stream_error, usage
from enginery.api.sse import DONE
from enginery.coreserver.wanted import Wanted
from enginery.enginecore.failures import failure_to_error
from enginery.enginecore.messages import EngineCoreOutput
from enginery.errors import EngineError, EngineryError
from enginery.values import JSONObject

__all__ = ["Frames", "Sum", "error_of"]

_encode = msgspec.json.encode
_HOLE = "\x1a"
"""Stands for a text while a frame's surroundings are made; JSON writes it as six characters."""


def error_of(output: EngineCoreOutput) -> EngineryError:
    """The error of an output that has one."""
    if output.error is None:
        return EngineError("the engine failed, and does not say why")
    error = failure_to_error(output.error)
    if not isinstance(error, EngineryError):
        return EngineError(f"{type(error).__name__}: {error}")
    return error


class Sum:
    """What one reply has come to so far."""

    __slots__ = ("ids", "last", "texts", "tokens")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.tokens = 0
        self.last: EngineCoreOutput | None = None
        """The output that ended it."""

    def add(self, output: EngineCoreOutput) -> None:
        """Take the next output."""
        if output.text:
            self.texts.append(output.text)
        if output.new_token_ids:
            self.ids += output.new_token_ids
            self.tokens += len(output.new_token_ids)
        if output.finish_reason is not None:
            self.last = output

    def take(self) -> tuple[str, list[int]]:
        """Text and token ids since the last time."""
        text, ids = "".join(self.texts), self.ids
        self.texts, self.ids = [], []
        return text, ids

    def usage(self) -> JSONObject:
        """Tokens as the backend counted them."""
        last = self.last
        if last is None:
            return usage(0, self.tokens)
        return usage(
            last.num_prompt_tokens,
            last.num_output_tokens or self.tokens,
            cached_tokens=last.num_cached_tokens,
        )


class Frames:
    """Writes the reply to one request.

    Args:
        wanted: the request.
        model: the name that the reply has.
        created: seconds since 1970; None, now.
    """

    def __init__(self, wanted: Wanted, model: str, created: int | None = None) -> None:
        self._wanted = wanted
        self._head: JSONObject = {
            "id": wanted.request.request_id,
            "object": "chat.completion.chunk" if wanted.chat else "text_completion",
            "created": int(time.time()) if created is None else created,
            "model": model,
        }
        before, after = self._frame(self._piece(_HOLE)).split(_encode(_HOLE))
        self._before, self._after = before, after

    def first(self) -> bytes:
        """What comes before the first token: the role, in a chat."""
        if not self._wanted.chat:
            return b""
        return self._frame({"delta": {"role": "assistant", "content": ""}})

    def piece(self, text: str, ids: list[int]) -> bytes:
        """The frame of a text; nothing for none."""
        if self._wanted.token_ids:
            if not text and not ids:
                return b""
            return self._frame({**self._piece(text), "token_ids": ids})
        return self._before + _encode(text) + self._after if text else b""

    def end(self, total: Sum) -> bytes:
        """What comes after the last token, `DONE` included; `total` has its last output."""
        last = total.last
        assert last is not None  # the caller waited for it
        if last.error is not None:
            return stream_error(error_of(last))
        piece = {"delta": {}} if self._wanted.chat else self._piece("")
        why = {"finish_reason": str(last.finish_reason), "stop_reason": last.stop_reason}
        frames = self._frame({**piece, **why})
        if self._wanted.include_usage:
            counts = {**self._head, "choices": [], "usage": total.usage()}
            frames += b"data: " + _encode(counts) + b"\n\n"
        return frames + DONE

    def whole(self, total: Sum) -> JSONObject:
        """The reply in one piece. Raises the error with which it ended, if it did."""
        last = total.last
        assert last is not None  # the caller waited for it
        if last.error is not None:
            raise error_of(last)
        text, ids = total.take()
        choice: JSONObject = {
            "index": 0,
            "logprobs": None,
            "finish_reason": str(last.finish_reason),
            "stop_reason": last.stop_reason,  # vLLM's: the stop string or token
        }
        if self._wanted.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if self._wanted.token_ids:
            choice["token_ids"] = ids
        kind = "chat.completion" if self._wanted.chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": total.usage()}

    def _piece(self, text: str) -> JSONObject:
        return {"delta": {"content": text}} if self._wanted.chat else {"text": text}

    def _frame(self, choice: JSONObject) -> bytes:
        filled: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None, **choice}
        return b"data: " + _encode({**self._head, "choices": [filled]}) + b"\n\n"
