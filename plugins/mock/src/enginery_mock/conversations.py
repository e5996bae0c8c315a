"""From each API's way to write a conversation to chat messages. Pure.

Knows: the system prompt of messages, the input and instructions of responses. Does not know: what is
wrong with a request (`generation`) or what a message costs (`tokens`). One conversation gives the same
messages whichever API it comes by, and so the same prompt tokens and the same reply.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CHAT_PATH", "COMPLETIONS_PATH", "MESSAGES_PATH", "RESPONSES_PATH", "chat_messages"]

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
MESSAGES_PATH = "/v1/messages"
RESPONSES_PATH = "/v1/responses"


def chat_messages(path: str, body: dict[str, Any]) -> Any:
    """The conversation of a request to ``path``, as a chat would write it.

    Never fails: a field of a wrong type is passed on as it is.
    """
    if path.startswith(RESPONSES_PATH):
        return _led_by(body.get("instructions"), _items(body.get("input")))
    if path.startswith(MESSAGES_PATH):
        return _led_by(body.get("system"), body.get("messages"))
    return body.get("messages")


def _led_by(system: Any, messages: Any) -> Any:
    if not system or not isinstance(messages, list):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _items(given: Any) -> Any:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [_message(item) for item in given] if isinstance(given, list) else given


def _message(item: Any) -> Any:
    """An item of a response's input: a message, a thought, a call, or what a call gave."""
    if not isinstance(item, dict) or "role" in item:
        return item
    if item.get("type") == "function_call":
        return {"role": "assistant", "content": item.get("arguments")}
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    return {"role": "assistant", "content": None} if item.get("type") == "reasoning" else item
