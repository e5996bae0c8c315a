"""`StreamingConfig`: how tokens are handed to a reader. `StreamRequest`: what is asked of an engine.

Knows: the fields and their ranges. Does not know: engines, or what each of them calls a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from enginery.errors import ConfigError, InvalidRequest
from enginery.values import JSONObject

__all__ = ["OnFull", "Prompt", "StreamRequest", "StreamingConfig", "request_for"]

OnFull = Literal["coalesce", "block", "abort"]

Prompt = str | Sequence[JSONObject]
"""A text, or the messages of a chat."""


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    """What all streams of a `StreamingEngine` have in common.

    Args:
        model: the name that is sent over HTTP; empty, the client's own.
        min_tokens_per_yield: a reader gets at least so many tokens at a time, but for the first one of a
            reply, which is never held back, and the last ones. At least 1, at most ``buffer_size``.
        buffer_size: tokens that wait for the reader one by one; what is more is for ``on_full``.
        flush_interval_ms: what has waited so long is handed over, however few; 0, nothing waits.
        skip_special_tokens: as in `SamplingParams`.
        spaces_between_special_tokens: same.
        on_full: a reader that is more than ``buffer_size`` behind gets the rest merged (``coalesce``), the
            engine's tokens wait (``block``; in process with them all other streams of the source), or the
            request ends with an error after what is buffered (``abort``). None of them loses a token.

    Raises `ConfigError`, naming the field.
    """

    model: str = ""
    min_tokens_per_yield: int = 1
    buffer_size: int = 100
    flush_interval_ms: float = 50.0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    on_full: OnFull = "coalesce"

    def __post_init__(self) -> None:
        for name in ("min_tokens_per_yield", "buffer_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"{name} must be a whole number from 1, got {value!r}", param=name
                )
        if self.min_tokens_per_yield > self.buffer_size:
            raise ConfigError(
                f"min_tokens_per_yield must be at most buffer_size, got {self.min_tokens_per_yield}"
                f" and {self.buffer_size}",
                param="min_tokens_per_yield",
            )
        wait = self.flush_interval_ms
        if type(wait) not in {int, float} or not wait >= 0:
            raise ConfigError(
                f"flush_interval_ms must be at least 0, got {wait!r}", param="flush_interval_ms"
            )
        if self.on_full not in get_args(OnFull):
            choices = ", ".join(get_args(OnFull))
            raise ConfigError(
                f"on_full must be one of {choices}, got {self.on_full!r}", param="on_full"
            )


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One reply that is asked for: either a ``prompt`` or ``messages``; the rest is sampling parameters."""

    prompt: str | None = None
    messages: Sequence[JSONObject] | None = None
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)


def request_for(
    prompt: Prompt, system_prompt: str | None, model: str, sampling: Mapping[str, Any]
) -> StreamRequest:
    """A text alone is completed; messages, or a text with a system prompt, are a chat.

    Parameters that are None are left to the engine. Raises `InvalidRequest` for another kind of prompt.
    """
    given = {name: value for name, value in sampling.items() if value is not None}
    if given.pop("n", 1) != 1:
        raise InvalidRequest("n: a stream has one reply", param="n")
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequest("prompt: is empty", param="prompt")
        if system_prompt is None:
            return StreamRequest(prompt=prompt, model=model, sampling=given)
        messages: list[JSONObject] = [{"role": "user", "content": prompt}]
    else:
        messages = list(prompt)
        if not messages or not all(isinstance(each, dict) for each in messages):
            raise InvalidRequest("prompt: must be a text or a list of messages", param="prompt")
    if system_prompt is not None:
        messages.insert(0, {"role": "system", "content": system_prompt})
    return StreamRequest(messages=messages, model=model, sampling=given)
