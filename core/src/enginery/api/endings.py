r"""How each API says that a stream is over, and what a reply cost: read from its last bytes.

Knows: the closing words of chat completions, completions, responses and messages, where usage stands in
replies of OpenAI, Anthropic, vLLM and llama.cpp, and what has to be sent to end a broken stream. Does
not know: sockets, or anything of a reply but its ends. Called once for each request, a few µs each: the
bytes are never decoded on their way.

Why a search in raw bytes is sound: inside a JSON string a quote is always written ``\"``. So a quoted
name that follows ``{`` or ``,`` is a name of the reply's own structure, never a word of its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from enginery.api.openai import stream_error
from enginery.errors import EngineryError
from enginery.values import JSONObject

__all__ = [
    "TAIL_BYTES",
    "Api",
    "Ending",
    "Usage",
    "api_of",
    "body_is_complete",
    "broken_stream_end",
    "stream_ending",
    "usage_of",
    "usage_of_counts",
]

Api = Literal["chat", "completions", "responses", "messages", "other"]
"""The shape of a reply. ``"other"`` are embeddings, rerank and whatever else an engine serves."""

Ending = Literal["complete", "error", "truncated"]
"""``"complete"``: the API's closing words were said. ``"error"``: the engine ended it with an error that
clients raise. ``"truncated"``: neither, so clients would wait, or take a part for the whole."""

TAIL_BYTES = 4096
"""As much of a stream's or reply's end as the functions here want to see; all of it when it is shorter."""

_APIS: dict[str, Api] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/responses": "responses",
    "/messages": "messages",
}
_RESPONSE_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})

_SPACE = b" \t\r\n"
_STRING = re.compile(rb'\s*:\s*"([^"]*)"')
_NULL = re.compile(rb"\s*:\s*null")
_NUMBER = re.compile(rb"\s*:\s*(\d{1,15})")
_OBJECT = re.compile(rb"\s*:\s*(?=\{)")
_FROM = json.JSONDecoder()
_ANY = msgspec.json.Decoder(Any)
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Cached(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Counts(msgspec.Struct):
    """Usage as OpenAI has it, and nearly all engines."""

    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Cached | None = None
    input_tokens_details: _Cached | None = None


_COUNTS = msgspec.json.Decoder(_Counts)


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one reply; None where the engine does not say.

    Args:
        prompt_tokens: all of the prompt, read from a cache or not.
        completion_tokens: what was generated.
        cached_tokens: the part of the prompt that was read from a cache.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


def api_of(path: str) -> Api:
    """The API that a path belongs to, with or without ``/v1`` before it."""
    return _APIS.get(path.removeprefix("/v1"), "other")


# -- is it all there -------------------------------------------------------------------------------


def stream_ending(api: Api, tail: bytes) -> Ending:
    """How a stream of server-sent events ended whose last `TAIL_BYTES` are ``tail``.

    An event counts when its blank line has come. A stream of ``"other"`` has no closing words that we
    know: it is complete when no event is open.
    """
    if api in {"chat", "completions"} and _ends_as_usual(tail):
        return "complete"
    events = _events(tail)
    if events is None or not events:
        return "truncated"
    last = events[-1]
    if api in {"chat", "completions"}:
        if last.data != b"[DONE]" and (last.whole or not last.data.endswith(b"[DONE]")):
            return "error" if last.is_error() else "truncated"
        if len(events) > 1 and events[-2].is_error():
            return "error"
        return "complete" if _was_finished(tail, events) else "truncated"
    if last.is_error():
        return "error"
    if api == "responses":
        return "complete" if _ends_response(last) else "truncated"
    if api == "messages":
        return "complete" if last.type() == "message_stop" else "truncated"
    return "complete"


def _ends_as_usual(tail: bytes) -> bool:
    """True for what nearly all streams of chunks end with, so that nothing need be taken apart.

    Behind a comma no string of JSON can hold these words: it would have a backslash before its quotes.
    """
    return (
        tail.endswith(b"}\n\ndata: [DONE]\n\n")
        and b',"finish_reason":"' in tail
        and tail.rfind(b"error") < tail.rfind(b"\n\n", 0, -16)
        and b"\r" not in tail
    )


def _was_finished(tail: bytes, events: list[_Event]) -> bool:
    """True unless a ``[DONE]`` follows a reply that had not ended: some servers say it whatever happened.

    A tail that shows no chunk with a choice, because it is short or its chunks are long, is believed.
    """
    if _last(tail, b'"finish_reason"', _STRING) is not None:
        return True
    if _last(tail, b'"finish_reason"', _NULL) is not None:
        return False
    return len(events) > 1 or not events[0].whole


def body_is_complete(body: bytes) -> bool:
    """True when ``body``, all of a reply that is no stream, is one JSON value.

    For replies whose end only the closing of the connection tells; a length or chunks say it for less.
    """
    try:
        _ANY.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def broken_stream_end(api: Api, error: EngineryError, tail: bytes = b"") -> bytes:
    """What to send so that a stream which broke off after ``tail`` ends with ``error``.

    Closes an event that is open, then the one frame on which the official clients raise, then
    ``[DONE]`` where the API has it. Clients that got half an event may complain of that first.
    """
    number = _last(tail, b'"sequence_number"', _NUMBER) if api == "responses" else None
    frame = stream_error(
        error,
        sequence_number=0 if number is None else int(number[1]) + 1,
        done=api in {"chat", "completions"},
    )
    return _closing(tail) + frame


def _closing(tail: bytes) -> bytes:
    if not tail or tail.endswith((b"\n\n", b"\n\r\n")):
        return b""
    # After a CR the first LF may belong to it, so that one alone could leave the event open.
    return b"\n" if tail.endswith(b"\n") else b"\n\n"


@dataclass(frozen=True, slots=True)
class _Event:
    """One event of the tail; ``whole`` is False when its beginning is missing, or may be."""

    name: bytes
    data: bytes
    whole: bool

    def object(self) -> JSONObject:
        try:
            value = _ANY.decode(self.data)
        except (msgspec.MsgspecError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def type(self) -> str:
        name = self.object().get("type")
        return name if isinstance(name, str) else self.name.decode("utf-8", "replace")

    def is_error(self) -> bool:
        if self.name == b"error":
            return True
        if b'"error"' not in self.data:
            return False
        found = self.object()
        return found.get("type") == "error" or isinstance(found.get("error"), dict | str)


def _events(tail: bytes) -> list[_Event] | None:
    """The last two events of ``tail`` in order; None when one is open at its end."""
    if b"\r" in tail:
        tail = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not tail.endswith(b"\n\n"):
        return None
    found: list[_Event] = []
    end = len(tail) - 2
    while end > 0 and len(found) < 2:
        start = tail.rfind(b"\n\n", 0, end)
        block = tail[0 if start < 0 else start + 2 : end]
        event = _event(block, whole=start >= 0 or block.startswith((b"data:", b"event:")))
        if event is not None:
            found.append(event)
        end = start
    return found[::-1]


def _event(block: bytes, *, whole: bool) -> _Event | None:
    """One event from its lines; None for a comment, or what has neither type nor data."""
    name, data = b"", []
    lines = block.split(b"\n")
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    if not data and not whole and block and not block.startswith(b":"):
        data = [block]  # from the middle of a line that is longer than the tail
    return _Event(name, b"\n".join(data), whole) if data else None


def _ends_response(last: _Event) -> bool:
    """True when an event carries the finished response.

    It repeats the whole text, so it may be longer than the tail. The names that stand after the text
    then tell: its own type (vLLM's order), or counts, which no event has before the end (OpenAI's and
    llama.cpp's).
    """
    if (found := last.object()) or last.whole:
        return found.get("type", last.name.decode("utf-8", "replace")) in _RESPONSE_ENDS
    if any(kind[1].decode() in _RESPONSE_ENDS for kind in _values(last.data, b'"type"', _STRING)):
        return True
    counts = _usage_at(last.data, last=True)
    return counts is not None and "output_tokens" in counts


# -- what it cost ----------------------------------------------------------------------------------


def usage_of(tail: bytes, head: bytes = b"") -> Usage | None:
    """The usage that a stream or a reply states near its end; None when there is none.

    Args:
        tail: its last `TAIL_BYTES`.
        head: its first bytes, for what is said there only: the prompt's tokens in streams of messages,
            and the counts of llama.cpp's embeddings.
    """
    usual = _usual_usage(tail)
    if usual is not None:
        return usual
    if b'"usage"' not in tail and b'"usage"' not in head:
        return None
    last = _usage_at(tail, last=True)
    if last is not None and "prompt_tokens" in last and "completion_tokens" in last:
        return usage_of_counts(last)  # nothing is said elsewhere
    first = _usage_at(head, last=False)
    if last is None and first is None:
        return None
    return usage_of_counts({**(first or {}), **(last or {})})


def _usual_usage(tail: bytes) -> Usage | None:
    """The last usage, written as nearly all engines do; None: look more closely, which takes a few µs more."""
    start = tail.rfind(b'"usage"') + 8
    if start < 9 or tail[start - 1 : start + 1] != b":{" or tail[start - 9] not in b",{":
        return None
    end = tail.find(b"}", start) + 1
    while end and tail.count(b"{", start, end) > tail.count(b"}", start, end):
        end = tail.find(b"}", end) + 1
    try:
        found = _COUNTS.decode(tail[start:end])
    except msgspec.MsgspecError:
        return None
    details = found.prompt_tokens_details or found.input_tokens_details
    cached = None if details is None else details.cached_tokens
    return Usage(found.prompt_tokens, found.completion_tokens, cached)


def usage_of_counts(counts: JSONObject) -> Usage:
    """The same for a decoded ``usage`` object of any API."""
    details = counts.get("prompt_tokens_details") or counts.get("input_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    prompt = _count(counts, "prompt_tokens")
    completion = _count(counts, "completion_tokens")
    if prompt is not None and completion is not None:
        return Usage(prompt, completion, cached)
    if prompt is None:
        prompt = _count(counts, "input_tokens")
        # Anthropic counts what came from a cache, or went into it, beside the input and not in it.
        read, written = (
            _count(counts, f"cache_{name}_input_tokens") for name in ("read", "creation")
        )
        if prompt is not None:
            prompt += (read or 0) + (written or 0)
        cached = read if cached is None else cached
    return Usage(
        prompt, _count(counts, "output_tokens") if completion is None else completion, cached
    )


def _count(counts: JSONObject, name: str) -> int | None:
    value = counts.get(name)
    return value if type(value) is int and value >= 0 else None


def _usage_at(raw: bytes, *, last: bool) -> JSONObject | None:
    """The last, or the first, usage object in ``raw`` that is all there."""
    for match in _values(raw, b'"usage"', _OBJECT, last=last):
        try:
            # latin-1 keeps each byte one character; names and numbers are ASCII anyway
            found, _ = _FROM.raw_decode(raw[match.end() :].decode("latin-1"))
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and any(name.endswith("_tokens") for name in found):
            return found
    return None


# -- names in raw bytes ----------------------------------------------------------------------------


def _values(
    raw: bytes, name: bytes, value: re.Pattern[bytes], *, last: bool = True
) -> Iterator[re.Match[bytes]]:
    """Where ``name``, with its quotes, is a field whose value has this form; the last one first."""
    find = raw.rfind if last else raw.find
    at = find(name)
    while at >= 0:
        before = raw[max(0, at - 40) : at].rstrip(_SPACE)
        if before.endswith((b"{", b",")) and (match := value.match(raw, at + len(name))):
            yield match
        at = raw.rfind(name, 0, at) if last else raw.find(name, at + 1)


def _last(raw: bytes, name: bytes, value: re.Pattern[bytes]) -> re.Match[bytes] | None:
    return next(_values(raw, name, value), None)
