"""How many tokens a prompt has: where the framework's bounds hold, and the exact number by asking.

Knows: which requests vLLM's tokenizers can make longer than their bytes, and vLLM's own counting routes. Does not know: a
model's tokenizer or template.

The framework's bound is one token for each byte. It holds for byte-level BPE, for sentencepiece with byte fallback, and
without it, too (what is unknown becomes one token for a character or a word). What breaks it is normalisation before the
split, which vLLM leaves to the model's tokenizer: Qwen's have NFC, those of many embedding models NFKC, and either can make
text longer (U+FDFA has 3 bytes, its NFKC form 33). So text that one of them lengthens has no bound here: the engine is
asked. Not covered is a model with a table of its own for that; vLLM's overflow error has the last word.

Several prompts in one request are one each to vLLM: what counts is the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unicodedata import is_normalized, normalize

from enginery import EngineRequest, RunningEngine, TokenEstimate
from enginery_vllm.options import options_of
from enginery_vllm.requests import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    KNOWN_FIELDS,
    MESSAGES,
    RESPONSES,
)

__all__ = ["count_tokens", "estimate_tokens", "prompts_of"]

_NO_BOUND = TokenEstimate(0, None)

_BOUNDED = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, COUNT, RESPONSES})
_UNBOUNDED_FIELDS: Mapping[str, frozenset[str]] = {
    CHAT: frozenset({"chat_template"}),  # a template may write anything
    EMBEDDINGS: frozenset({"chat_template"}),
    COMPLETIONS: frozenset({"prompt_embeds"}),
    RESPONSES: frozenset({"previous_response_id", "prompt", "previous_input_messages"}),
}
_COUNTED = KNOWN_FIELDS[COUNT]
_NOT_PROMPT = frozenset({"model", "stop", "structured_outputs", "logit_bias", "request_id"})

_AS_IN_CHAT = (
    *("messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("add_special_tokens", "media_io_kwargs", "mm_processor_kwargs"),
)


def estimate_tokens(request: EngineRequest) -> TokenEstimate | None:
    """No bound where the framework's does not hold; None, which leaves it to the framework, where it does."""
    if request.path not in _BOUNDED:
        return _NO_BOUND
    body = request.body
    if any(body.get(field) is not None for field in _UNBOUNDED_FIELDS.get(request.path, ())):
        return _NO_BOUND
    return _NO_BOUND if any(_grows(text) for text in _texts(body)) else None


async def count_tokens(request: EngineRequest, engine: RunningEngine) -> int | None:
    """The prompt's tokens as vLLM counts them in ``usage``; None when it cannot say.

    A few milliseconds, in no queue; also while it sleeps.
    """
    body = request.body
    if options_of(engine.variant.options).in_process:
        return await _count_in_process(request, engine)
    if request.path in {MESSAGES, COUNT}:
        question = {name: body[name] for name in _COUNTED if body.get(name) is not None}
        return await _asked(engine, COUNT, question, "input_tokens")
    if request.path == CHAT:
        count = await _asked(engine, "/tokenize", _chat_question(body))
        return None if count is None else _truncated(count, body)
    if request.path not in {COMPLETIONS, EMBEDDINGS}:
        return None
    longest = 0
    for prompt in prompts_of(body.get("prompt" if request.path == COMPLETIONS else "input")):
        count = await _count_prompt(prompt, body, engine)
        if count is None:
            return None
        longest = max(longest, count)
    return _truncated(longest, body)


async def _count_in_process(request: EngineRequest, engine: RunningEngine) -> int | None:
    """The framework's own server counts one text or one chat."""
    field = "messages" if request.path == CHAT else "prompt"
    value = request.body.get(field)
    if field == "messages" and value:
        return await _asked(engine, "/tokenize", {field: value})
    prompts = prompts_of(value)
    return await _count_prompt(prompts[0], {}, engine) if len(prompts) == 1 else None


def prompts_of(value: Any) -> list[Any]:
    """The prompts in a ``prompt`` or ``input`` field: a text, a list of tokens, or a list of either."""
    if isinstance(value, list) and not (value and all(type(item) is int for item in value)):
        return value
    return [value]


def _chat_question(body: Mapping[str, Any]) -> dict[str, Any]:
    """What ``/tokenize`` wants for a chat; what only chats have goes to the template by its other way."""
    question = {name: body[name] for name in _AS_IN_CHAT if body.get(name) is not None}
    kwargs: dict[str, Any] = {}
    for name in ("documents", "reasoning_effort"):
        if body.get(name) is not None:
            kwargs[name] = body[name]
    if "reasoning_effort" in kwargs:
        kwargs["enable_thinking"] = kwargs["reasoning_effort"] != "none"
    own = body.get("chat_template_kwargs")
    if isinstance(own, dict):
        kwargs |= own
    if kwargs:
        question["chat_template_kwargs"] = kwargs
    return question


async def _count_prompt(prompt: Any, body: Mapping[str, Any], engine: RunningEngine) -> int | None:
    if isinstance(prompt, list) and all(type(token) is int for token in prompt):
        return len(prompt)
    if not isinstance(prompt, str):
        return None
    question: dict[str, Any] = {"prompt": prompt}
    if isinstance(body.get("add_special_tokens"), bool):
        question["add_special_tokens"] = body["add_special_tokens"]
    return await _asked(engine, "/tokenize", question)


def _truncated(count: int, body: Mapping[str, Any]) -> int:
    limit = body.get("truncate_prompt_tokens")
    return min(count, limit) if type(limit) is int and limit >= 0 else count


async def _asked(
    engine: RunningEngine, route: str, question: dict[str, Any], field: str = "count"
) -> int | None:
    """The number that ``route`` answers with; the model has its name there, which may not be the client's."""
    reply = await engine.post(route, {**question, "model": engine.variant.body_model})
    if reply.status != 200:
        return None
    try:
        found = reply.json().get(field)
    except (ValueError, AttributeError):
        return None
    return found if type(found) is int else None


def _texts(body: Mapping[str, Any]) -> Iterator[str]:
    """All text in a body that may be prompt; walks with a list of its own, for bodies may be deep."""
    stack: list[Any] = [value for name, value in body.items() if name not in _NOT_PROMPT]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()


def _grows(text: str) -> bool:
    """Whether a tokenizer that normalises can make ``text`` longer, in bytes."""
    if text.isascii():
        return False
    size = len(text.encode("utf-8", "surrogatepass"))
    return any(
        not is_normalized(form, text)
        and len(normalize(form, text).encode("utf-8", "surrogatepass")) > size
        for form in ("NFC", "NFKC")
    )
