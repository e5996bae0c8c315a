"""How the tokens of one request are chosen and when they end.

Knows: the fields, their ranges, and how to refuse a wrong one by its name. Does not know: whether a
backend can do what is asked; that is in its `Capabilities`. Names and meanings follow vLLM's
`SamplingParams` and the OpenAI API.
"""

from __future__ import annotations

from typing import Any

import msgspec

from enginery.errors import InvalidRequest

__all__ = ["SamplingParams"]


class SamplingParams(
    msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False, kw_only=True
):
    """Constant for a request. Fields are only ever appended: the order is the wire's.

    ``stop`` may be given as one string or a list, ``stop_token_ids`` as a list; they are kept as tuples.

    Args:
        max_tokens: most tokens of the reply, at least 1; None, as many as the context has room for.
        temperature: 0 takes the likeliest token; at least 0.
        top_p: share of the probability that is sampled from, above 0 and at most 1.
        top_k: how many of the likeliest tokens are sampled from, at least 1; -1, all.
        min_p: least probability of a token relative to the likeliest one, 0 to 1.
        seed: makes the reply repeatable where the backend can, 64 bits with a sign; None, the backend's own.
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        repetition_penalty: above 0; 1 is none.
        stop: strings that end the reply; none of them empty.
        stop_token_ids: token ids that end the reply, besides the end-of-sequence token.
        min_tokens: tokens before which nothing but a length limit ends the reply; 0 to ``max_tokens``.
        ignore_eos: the end-of-sequence token does not end the reply.
        include_stop_str_in_output: the text keeps the stop string that ended it.
        skip_special_tokens: special tokens (end of sequence and the like) are left out of the text.
        spaces_between_special_tokens: the tokenizer puts spaces between special tokens it does not skip.
        logprobs: how many alternatives' log-probabilities to return with each token; None, none.

    Raises:
        InvalidRequest: a value has the wrong type or range; ``param`` names the field. It is a
            ValueError too.
    """

    max_tokens: int | None = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, least=1)
        _number("temperature", self.temperature, least=0.0)
        _number("top_p", self.top_p, above=0.0, most=1.0)
        _whole("top_k", self.top_k, least=-1)
        if self.top_k == 0:
            raise InvalidRequest("top_k must be at least 1, or -1 for all, got 0", param="top_k")
        _number("min_p", self.min_p, least=0.0, most=1.0)
        if self.seed is not None:
            _whole("seed", self.seed, least=-(2**63), most=2**63 - 1)
        _number("presence_penalty", self.presence_penalty, least=-2.0, most=2.0)
        _number("frequency_penalty", self.frequency_penalty, least=-2.0, most=2.0)
        _number("repetition_penalty", self.repetition_penalty, above=0.0)
        self._check_stops()
        _whole("min_tokens", self.min_tokens, least=0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens must be at most max_tokens, got {self.min_tokens} and {self.max_tokens}",
                param="min_tokens",
            )
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"{name} must be true or false", param=name)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, least=0)

    def _check_stops(self) -> None:
        stop: Any = self.stop
        if type(stop) is not tuple:
            stop = (stop,) if isinstance(stop, str) else tuple(_listed("stop", stop))
            msgspec.structs.force_setattr(self, "stop", stop)
        for text in stop:
            if not isinstance(text, str) or not text:
                raise InvalidRequest("stop must hold strings, none empty", param="stop")
        ids: Any = self.stop_token_ids
        if type(ids) is not tuple:
            ids = tuple(_listed("stop_token_ids", ids))
            msgspec.structs.force_setattr(self, "stop_token_ids", ids)
        for token in ids:
            _whole("stop_token_ids", token, least=0, most=2**31 - 1)


_FLAGS = (
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def _listed(name: str, value: Any) -> list[Any] | tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"{name} must be a list, got {value!r}", param=name)
    return value


def _whole(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    if type(value) is not int:
        raise InvalidRequest(f"{name} must be a whole number, got {value!r}", param=name)
    if value < least:
        raise InvalidRequest(f"{name} must be at least {least}, got {value}", param=name)
    if most is not None and value > most:
        raise InvalidRequest(f"{name} must be at most {most}, got {value}", param=name)


def _number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> None:
    if type(value) not in {float, int} or value != value or value in _ENDLESS:  # noqa: PLR0124  # NaN
        raise InvalidRequest(f"{name} must be a number, got {value!r}", param=name)
    if least is not None and value < least:
        raise InvalidRequest(f"{name} must be at least {least:g}, got {value:g}", param=name)
    if above is not None and value <= above:
        raise InvalidRequest(f"{name} must be above {above:g}, got {value:g}", param=name)
    if most is not None and value > most:
        raise InvalidRequest(f"{name} must be at most {most:g}, got {value:g}", param=name)


_ENDLESS = (float("inf"), float("-inf"))
