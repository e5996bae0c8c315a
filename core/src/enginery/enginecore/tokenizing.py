"""``tokenize`` and ``detokenize``: the calls by name of a backend that has a tokenizer.

Knows: their arguments. Does not know: backends or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginery.enginecore.backend import Tokenizer
from enginery.errors import InvalidRequest

__all__ = ["TOKEN_CALLS", "token_call"]

TOKEN_CALLS = ("tokenize", "detokenize")


def token_call(tokenizer: Tokenizer, method: str, args: Mapping[str, Any]) -> list[int] | str:
    """``tokenize(prompt)`` or ``tokenize(messages)`` gives token ids, ``detokenize(tokens)`` a text.

    Raises:
        InvalidRequest: an argument is missing, or wrong; ``param`` names it.
    """
    if method == "detokenize":
        tokens = args.get("tokens")
        if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
            raise InvalidRequest("tokens must be a list of token ids", param="tokens")
        try:
            return tokenizer.decode(tokens, skip_special_tokens=False)
        except (IndexError, KeyError, OverflowError) as error:
            raise InvalidRequest("tokens: one is not in the vocabulary", param="tokens") from error
    if (messages := args.get("messages")) is not None:
        if not isinstance(messages, list) or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages
        ):
            raise InvalidRequest("messages must be objects with a role", param="messages")
        return list(tokenizer.encode(tokenizer.render_chat(messages)))
    prompt = args.get("prompt")
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt must be a string", param="prompt")
    return list(tokenizer.encode(prompt))
