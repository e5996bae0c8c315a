"""The mock's toy tokenizer. Pure: text in, pieces and counts out.

Knows: how a text is cut, and what a prompt costs. Does not know: replies or HTTP. The plugin's
estimate and the server's ``usage`` both come from here, so they are equal to the token.

The rules:

* A token is one of: up to eight letters, digits or underscores, with the one space before them; one
  other character, with the one space before it; a run of white space. ``"Hello, world"`` is
  ``"Hello"``, ``","``, ``" world"``. The tokens of a text, put together, are the text.
* A token's id is the CRC-32 of its UTF-8 bytes without the highest bit. Ids name tokens, they do not
  number a vocabulary.
* A chat costs 4 tokens for each message, 3 for the start of the reply, and the tokens of its contents.
  A part of a content that calls a tool, or tells its result, costs the tokens of that; an image or any
  other part that is not text costs 64.
* A completion's prompt costs its tokens, or its length when it is a list of ids; so does what is embedded.
* Reranking costs the tokens of the query and of each document.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from enginery_mock.conversations import chat_messages

__all__ = [
    "CHAT_OVERHEAD",
    "MESSAGE_OVERHEAD",
    "PART_TOKENS",
    "chat_tokens",
    "count",
    "pieces",
    "prompt_tokens",
    "request_tokens",
    "token_id",
]

MESSAGE_OVERHEAD = 4
CHAT_OVERHEAD = 3
PART_TOKENS = 64

_PIECE = re.compile(r" ?\w{1,8}| ?[^\w\s]|\s+")


def pieces(text: str) -> list[str]:
    """The tokens of ``text``, as text."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """How many tokens ``text`` has."""
    return len(_PIECE.findall(text))


def token_id(piece: str) -> int:
    """The id of one token, below 2**31."""
    return zlib.crc32(piece.encode()) & 0x7FFF_FFFF


def request_tokens(path: str, body: dict[str, Any]) -> int:
    """Prompt tokens of a request to ``path``: what ``usage.prompt_tokens`` will say.

    Never fails: what the server refuses counts as nothing.
    """
    if path == "/v1/embeddings":
        return prompt_tokens(body.get("input"))
    if path == "/v1/rerank":
        return prompt_tokens(body.get("query")) + prompt_tokens(body.get("documents"))
    if path == "/v1/completions":
        return prompt_tokens(body.get("prompt"))
    return chat_tokens(chat_messages(path, body))


def chat_tokens(messages: Any) -> int:
    """Prompt tokens of a list of chat messages."""
    if not isinstance(messages, list):
        return 0
    contents = (message.get("content") for message in messages if isinstance(message, dict))
    return CHAT_OVERHEAD + MESSAGE_OVERHEAD * len(messages) + sum(map(_content_tokens, contents))


def _content_tokens(content: Any) -> int:
    if isinstance(content, str):
        return count(content)
    if isinstance(content, list):
        return sum(map(_part_tokens, content))
    return 0


def _part_tokens(part: Any) -> int:
    if not isinstance(part, dict):
        return PART_TOKENS
    if part.get("type") == "tool_use":
        return count(json.dumps(part.get("input")))
    if part.get("type") == "tool_result":
        return _content_tokens(part.get("content"))
    text = part.get("text")
    return count(text) if isinstance(text, str) else PART_TOKENS


def prompt_tokens(prompt: Any) -> int:
    """Prompt tokens of a completion: of a string, a list of ids, or a list that holds one of these."""
    if isinstance(prompt, str):
        return count(prompt)
    if isinstance(prompt, list):
        return sum(1 if isinstance(item, int) else prompt_tokens(item) for item in prompt)
    return 0
