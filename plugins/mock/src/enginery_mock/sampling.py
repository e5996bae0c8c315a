"""Sampling parameters that are of no effect here, and of the wrong type nowhere. Pure.

Knows: the types of the fields that all real engines read (OpenAI's, Anthropic's, vLLM's and llama.cpp's names), so that
a client that sends nonsense learns it from the mock too. Does not know: ranges, in which engines differ, but for a
temperature below 0. Null counts as not given.
"""

from __future__ import annotations

from typing import Any

from enginery import InvalidRequest
from enginery.api.body import DecodedBody

__all__ = ["check_sampling"]

_NUMBER, _WHOLE = frozenset({int, float}), frozenset({int})
_FLAG = frozenset({bool})
_WORDS = {
    _NUMBER: "a number",
    _WHOLE: "a whole number",
    _FLAG: "true or false",
    _WHOLE | _FLAG: "true, false or a whole number",
    frozenset({dict}): "an object",
}

_TYPES: dict[str, frozenset[type]] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "repetition_penalty": _NUMBER,  # vLLM's name
    "repeat_penalty": _NUMBER,  # llama.cpp's
    "top_k": _WHOLE,
    "min_tokens": _WHOLE,
    "top_logprobs": _WHOLE,
    "logprobs": _WHOLE | _FLAG,  # a number in completions, a flag in chats
    "ignore_eos": _FLAG,
    "logit_bias": frozenset({dict}),
}


def check_sampling(body: DecodedBody) -> None:
    """Refuse what no engine would sample with.

    Raises:
        InvalidRequest: ``param`` names the field.
    """
    for name, types in _TYPES.items():
        value: Any = body.get(name)
        if value is not None and type(value) not in types:  # true is an int to Python
            raise InvalidRequest(f"{name} must be {_WORDS[types]}", param=name)
    temperature = body.get("temperature")
    if temperature is not None and temperature < 0:
        raise InvalidRequest("temperature must be at least 0", param="temperature")
