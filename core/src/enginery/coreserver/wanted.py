"""What a request asks for: a body of OpenAI's chat or completions route as a request to an engine core.

Knows: the routes' fields, which of them an engine core has, and how to refuse the others by name: silence would be a
wrong answer. Does not know: HTTP, or how the reply is made. Names and meanings beyond OpenAI's are vLLM's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from enginery.api.body import DecodedBody
from enginery.enginecore.chat import plain_chat
from enginery.enginecore.messages import Capabilities, EngineCoreRequest
from enginery.enginecore.sampling import SamplingParams
from enginery.errors import InvalidRequest, ModelNotFound

__all__ = ["CHAT_PATH", "COMPLETIONS_PATH", "Wanted", "read_wanted"]

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

COMPLETION_TOKENS = 16
"""OpenAI's default for completions; a chat goes on as long as there is room."""

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
)


def _one(value: Any) -> bool:
    return bool(value == 1)


def _empty(value: Any) -> bool:
    return not value


def _text_format(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "text"


def _text_only(value: Any) -> bool:
    return value in ([], ["text"])


_HARMLESS: dict[str, Callable[[Any], bool]] = {
    "n": _one,
    "best_of": _one,
    "echo": _empty,
    "suffix": _empty,
    "logprobs": _empty,
    "top_logprobs": _empty,
    "logit_bias": _empty,
    "functions": _empty,
    "audio": _empty,
    "modalities": _text_only,
    "response_format": _text_format,
}
"""Fields that an engine core cannot honour, and the values with which they ask for nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One generation: the core's request, and how the reply is to look."""

    request: EngineCoreRequest
    chat: bool
    stream: bool
    include_usage: bool
    token_ids: bool


def read_wanted(path: str, body: DecodedBody, model: str, able: Capabilities) -> Wanted:
    """Read a body for `CHAT_PATH` or `COMPLETIONS_PATH`.

    Raises:
        InvalidRequest: a field is wrong, or asks for what there is not; ``param`` names it.
        ModelNotFound: the body names another model.
    """
    if body.get("model") is not None and body.model != model:
        raise ModelNotFound(f"this engine runs {model!r}, not {body.model!r}", param="model")
    for field, is_harmless in _HARMLESS.items():
        value = body.get(field)
        if value is not None and not is_harmless(value):
            raise InvalidRequest(f"{field}: this engine cannot do {value!r}", param=field)
    if body.get("tools") and body.get("tool_choice") != "none":
        raise InvalidRequest("tools: this engine calls no functions", param="tools")
    chat = path == CHAT_PATH
    options = body.get("stream_options")
    if options is not None and not (isinstance(options, dict) and body.stream):
        raise InvalidRequest(
            "stream_options must be an object, and needs stream", param="stream_options"
        )
    return Wanted(
        _request(body, able, chat=chat),
        chat=chat,
        stream=body.stream,
        include_usage=(options or {}).get("include_usage") is True,
        token_ids=_flag(body, "return_token_ids"),
    )


def _request(body: DecodedBody, able: Capabilities, *, chat: bool) -> EngineCoreRequest:
    given = {name: value for name in _SAMPLING if (value := body.get(name)) is not None}
    most = body.get("max_completion_tokens") if chat else None
    if most is None:
        most = body.get("max_tokens", None if chat else COMPLETION_TOKENS)
    salt = body.get("cache_salt")
    if salt is not None and not isinstance(salt, str):
        raise InvalidRequest("cache_salt must be a string", param="cache_salt")
    prompt = _messages(body, able) if chat else _prompt(body, able)
    return EngineCoreRequest(
        f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}",
        **prompt,
        sampling_params=SamplingParams(max_tokens=most, **given),
        cache_salt=salt,
    )


def _messages(body: DecodedBody, able: Capabilities) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list, not empty", param="messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            where = f"messages[{number}]"
            raise InvalidRequest(f"{where} must be an object with a role", param=where)
    text = plain_chat(messages)  # refuses what is no text, whoever renders it
    if "messages" in able.accepts:
        return {"messages": messages}
    if "text" in able.accepts:
        return {"prompt": text}
    raise InvalidRequest("messages: this engine takes only token ids", param="messages")


def _prompt(body: DecodedBody, able: Capabilities) -> dict[str, Any]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        (prompt,) = prompt
    if isinstance(prompt, str) and prompt:
        if "text" not in able.accepts:
            raise InvalidRequest("prompt: this engine takes only token ids", param="prompt")
        return {"prompt": prompt}
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        if "tokens" not in able.accepts:
            raise InvalidRequest("prompt: this engine takes no token ids", param="prompt")
        return {"prompt_token_ids": prompt}
    raise InvalidRequest(
        "prompt must be one text or one list of token ids, not empty", param="prompt"
    )


def _flag(body: DecodedBody, name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value is True
