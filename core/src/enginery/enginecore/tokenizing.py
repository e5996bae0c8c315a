"""``tokenize`` and ``detokenize``: the calls by name of a backend that has a tokenizer.

Knows: their arguments. Does not know: backends or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginery.enginecore.backend import Tokenizer
from enginery.errors import InvalidRequest

__all__ = ["TOKEN_CALLS", "token_argument", "token_call"]

TOKEN_CALLS = ("tokenize", "detokenize")


def token_call(tokenizer: Tokenizer, method: str, args: Mapping[str, Any]) -> list[int] | str:
    """``tokenize(prompt)`` or ``tokenize(messages)`` gives token ids, ``detokenize(tokens)`` a text.

    Raises:
        InvalidRequest: an argument is missing, or wrong; ``param`` names it.
    """
    name, value = token_argument(method, args)
    if name == "tokens":
        try:
            return tokenizer.decode(value, skip_special_tokens=False)
        except (IndexError, KeyError, OverflowError) as error:
            raise InvalidRequest("tokens: one is not in the vocabulary", param="tokens") from error
    text = tokenizer.render_chat(value) if name == "messages" else value
    return list(tokenizer.encode(text))


def token_argument(method: str, args: Mapping[str, Any]) -> tuple[str, Any]:
    """Which argument such a call has, checked: ``tokens``, ``messages`` or ``prompt``, and its value.

    For a backend whose tokenizer has ways of its own, such as special tokens that a chat's template has already.

    Raises:
        InvalidRequest: as `token_call`.
    """
    if method == "detokenize":
        tokens = args.get("tokens")
        if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
            raise InvalidRequest("tokens must be a list of token ids", param="tokens")
        return "tokens", tokens
    if (messages := args.get("messages")) is not None:
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages
        ):
            raise InvalidRequest("messages must be objects with a role", param="messages")
        return "messages", messages
    prompt = args.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt must be a string", param="prompt")
    return "prompt", prompt
