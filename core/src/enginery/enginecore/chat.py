"""A plain chat template, for models and backends that bring none.

Knows: how roles and contents become one text. Does not know: any model's own template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginery.errors import InvalidRequest

__all__ = ["plain_chat"]


def plain_chat(messages: Sequence[Mapping[str, Any]]) -> str:
    """``role: content`` per message, and ``assistant:`` at the end.

    Content is a string, or a list of parts of which all are text (OpenAI's ``{"type": "text"}``).

    Raises:
        InvalidRequest: other content; ``param`` names the message.
    """
    lines = [
        f"{message['role']}: {_text(message.get('content'), f'messages[{number}].content')}"
        for number, message in enumerate(messages)
    ]
    return "\n".join([*lines, "assistant:"])


def _text(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise InvalidRequest(f"{where}: must be a string, or a list of text parts", param=where)
