"""How many tokens a prompt has: bounds without asking, and the exact number by asking.

Knows: which bytes of a request can reach the prompt, and llama.cpp's own counting routes. Does not
know: a model's tokenizer or template. The bound rests on one fact, measured on 12 real vocabularies
with hostile strings: a text of b bytes becomes at most b + 3 tokens (BOS, EOS, one leading space),
and digits and emoji do reach one token per byte. T5-style tokenizers, whose normalisation lengthens
text, are not covered. The low bound says nothing of text: ``<|im_end|>`` in a message is one token.

Several prompts in one request run one after the other: what counts is the longest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from enginery import EngineReply, EngineRequest, RunningEngine, TokenEstimate
from enginery_llamacpp.requests import adapt
from enginery_llamacpp.validation import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    validate,
)

__all__ = ["SPECIAL_TOKENS", "count_in_process", "count_tokens", "estimate_tokens", "split_prompts"]

SPECIAL_TOKENS = 3

MESSAGE_BYTES = 128
"""Markers that a template writes around a message, and around each of its parts. The templates
measured need 6 to 28 tokens for a whole empty message."""

DEFAULT_PROMPT_BYTES = 1024
"""Some templates begin with words of their own where no system message does. English has 3 to 4
bytes a token, so this covers 3 to 4 kB of them; llama.cpp's own overflow error has the last word."""

TOOLS_BYTES = 2048
"""A template's own words about how to call tools, and llama.cpp's where the template has none."""

_NOT_TEXT = frozenset({"image_url", "image", "input_image", "input_audio", "audio", "file", "document",
                       "input_file", "video", "video_url"})  # fmt: skip
_WRITTEN_AS_TEXT = (
    *("messages", "input", "system", "instructions", "query", "documents"),
    *("prompt", "input_prefix", "input_suffix", "input_extra"),  # of /infill
)
_PLAIN_ROLES = ("user", "system", "developer")  # a tuple: a role may be unhashable
_WRITTEN_AS_JSON = ("tools", "functions", "response_format", "chat_template_kwargs", "text")
_COUNTING_ROUTES = {
    CHAT: f"{CHAT}/input_tokens",
    MESSAGES: f"{MESSAGES}/count_tokens",
    RESPONSES: f"{RESPONSES}/input_tokens",
}


def estimate_tokens(request: EngineRequest) -> TokenEstimate:
    """Sound bounds on the prompt's tokens; ``high`` is None for images, audio and files."""
    body = request.body
    if request.path in {COMPLETIONS, EMBEDDINGS}:
        return _longest(body.get("prompt" if request.path == COMPLETIONS else "input"))
    total = DEFAULT_PROMPT_BYTES + SPECIAL_TOKENS
    for field in _WRITTEN_AS_TEXT:
        size = _conversation_bytes(body.get(field))
        if size is None:
            return TokenEstimate(0, None)
        total += size
    for field in _WRITTEN_AS_JSON:
        if body.get(field):
            total += _json_bytes(body[field])
    if body.get("tools") or body.get("functions"):
        total += TOOLS_BYTES
    return TokenEstimate(0, total)


async def count_tokens(request: EngineRequest, engine: RunningEngine) -> int | None:
    """The prompt's tokens as llama.cpp counts them in ``usage``; None when it cannot say.

    Costs 2 to 15 ms and takes no slot, but wakes a server that sleeps.

    Raises:
        InvalidRequest: as `validation.validate`; llama.cpp would count something else.
    """
    validate(request, engine.variant)
    body = request.body
    if request.path in _COUNTING_ROUTES:
        adapted = adapt(request).body
        route = _COUNTING_ROUTES[request.path]
        reply = await engine.post(route, body if adapted is None else adapted)
        return _number(reply, "input_tokens")
    if request.path not in {COMPLETIONS, EMBEDDINGS}:
        return None
    longest = 0
    for prompt in split_prompts(body.get("prompt" if request.path == COMPLETIONS else "input")):
        count = await _count_prompt(prompt, engine)
        if count is None:
            return None
        longest = max(longest, count)
    return longest


async def count_in_process(request: EngineRequest, engine: RunningEngine) -> int | None:
    """The same where llama.cpp runs behind the framework's own server; None when that cannot say."""
    field = "messages" if request.path == CHAT else "prompt"
    value = request.body.get(field)
    if isinstance(value, list) and field == "prompt":
        return len(value) if all(type(token) is int for token in value) else None
    if not value:
        return None
    return _number(await engine.post("/tokenize", {field: value}), "count")


async def _count_prompt(prompt: Any, engine: RunningEngine) -> int | None:
    if not isinstance(prompt, str | list):
        return None
    if isinstance(prompt, list) and all(isinstance(token, int) for token in prompt):
        return len(prompt)
    question = {"content": prompt, "add_special": True, "parse_special": True}
    return _number(await engine.post("/tokenize", question), "tokens")


def _number(reply: EngineReply, field: str) -> int | None:
    if reply.status != 200:
        return None
    found = reply.json().get(field)
    return len(found) if isinstance(found, list) else found if isinstance(found, int) else None


# -- prompts of completions and embeddings -----------------------------------------------------


def split_prompts(value: Any) -> list[Any]:
    """The prompts in a ``prompt`` or ``input`` field, as llama.cpp splits them.

    A list that holds a number is one prompt, of tokens or of text and tokens mixed.
    """
    if isinstance(value, list) and not any(isinstance(item, int) for item in value):
        return value
    return [value]


def _longest(value: Any) -> TokenEstimate:
    low, high = 0, 0
    for prompt in split_prompts(value):
        if isinstance(prompt, list) and all(isinstance(item, int) for item in prompt):
            low = max(low, len(prompt))
            high = max(high, len(prompt) + SPECIAL_TOKENS)
        elif isinstance(prompt, str | list):
            size = sum(_text_bytes(x) if isinstance(x, str) else 1 for x in _pieces(prompt))
            high = max(high, size + SPECIAL_TOKENS)
        elif isinstance(prompt, Mapping):
            return TokenEstimate(0, None)  # llama.cpp's own form, with images beside the text
    return TokenEstimate(low, max(low, high))


def _pieces(prompt: str | list[Any]) -> list[Any]:
    return [prompt] if isinstance(prompt, str) else prompt


# -- conversations -----------------------------------------------------------------------------


def _conversation_bytes(value: Any) -> int | None:
    """Bytes that a conversation can become, markers included; None when it is not all text."""
    if value is None:
        return 0
    if not isinstance(value, list):
        return MESSAGE_BYTES + (
            _text_bytes(value) if isinstance(value, str) else _json_bytes(value)
        )
    total = 0
    for message in value:
        size = _message_bytes(message)
        if size is None:
            return None
        total += size
    return total


def _message_bytes(message: Any) -> int | None:
    if not isinstance(message, dict):
        return MESSAGE_BYTES + _json_bytes(message)
    if any(_is_media(item) for item, _ in _walk(message)):
        return None
    content = message.get("content")
    if isinstance(content, str) and message.get("role") in _PLAIN_ROLES:
        others = {name: value for name, value in message.items() if name != "content"}
        return MESSAGE_BYTES + _text_bytes(content) + _json_bytes(others)
    # Tool calls and results, and parts, may be written out as JSON.
    parts = len(content) if isinstance(content, list) else 0
    return MESSAGE_BYTES * (1 + parts) + _json_bytes(message)


def _is_media(item: Any) -> bool:
    kind = item.get("type") if isinstance(item, dict) else None
    return isinstance(kind, str) and kind in _NOT_TEXT


def _text_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


_ESCAPED_TO_SIX = ("<", ">", "&", "'")  # as Jinja's own `tojson` writes them


def _json_bytes(value: Any) -> int:
    """The most bytes that ``value`` takes as JSON: escaped for ASCII and HTML, indented by four.

    Walks with a list of its own: bodies may be nested deeper than Python recurses.
    """
    total = 0
    for item, depth in _walk(value):
        line = 4 * depth + 4  # an indented line of its own, with comma and line break
        if isinstance(item, str):
            total += line + _escaped_bytes(item)
        elif isinstance(item, dict | list):
            total += 2 * line + 2
        else:
            total += line + len(str(item))
    return total


def _escaped_bytes(text: str) -> int:
    # Twice escaped: the arguments of a tool call are JSON in a string, and may be quoted again.
    ascii_text = json.dumps(text)
    more = sum(ascii_text.count(mark) for mark in _ESCAPED_TO_SIX)
    quoted = ascii_text.count("\\") + ascii_text.count('"')
    return len(ascii_text) + 5 * more + quoted


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        yield item, depth
        if isinstance(item, dict):
            for key, inner in item.items():
                yield key, depth + 1
                stack.append((inner, depth + 1))
        elif isinstance(item, list):
            stack += [(inner, depth + 1) for inner in item]
