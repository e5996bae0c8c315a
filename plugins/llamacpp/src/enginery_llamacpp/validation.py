"""Refuses what llama.cpp would answer badly, before it is asked.

Knows: which mistakes llama.cpp answers with a 500 or does not notice at all. Does not know: what it
notices by itself; a wrong type that it answers with a good 400 is its own business. Pure: a request
and a variant in, nothing or `InvalidRequest` out. Each rule is held against the real server by
``tests/llamacpp/test_engine_rules.py``; measured on b11549. ``param`` is written as
``messages[0].role``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from enginery import EngineRequest, InvalidRequest, Variant

__all__ = ["CHAT", "COMPLETIONS", "EMBEDDINGS", "MESSAGES", "RESPONSES", "validate"]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

MAX_INT = 2**31 - 1  # llama.cpp reads a longer number as a 32-bit one: 2**32 + 3 is 3 to it
_REPLY_LIMITS = ("max_tokens", "max_completion_tokens", "n_predict", "max_output_tokens")
_PLAIN = frozenset(
    {
        *(
            "model",
            "messages",
            "prompt",
            "input",
            "system",
            "stream",
            "seed",
            "temperature",
            "top_p",
        ),
        *("frequency_penalty", "presence_penalty", *_REPLY_LIMITS),
    }
)
"""Fields that no rule looks at but those on messages and limits: most requests have no others."""

_WITH_MESSAGES = frozenset({CHAT, MESSAGES, f"{MESSAGES}/count_tokens"})
_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
_AUDIO_PARTS = frozenset({"input_audio", "audio"})

_IGNORED_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "stop": ((str, list), "a string or a list of strings"),
    "stream_options": ((dict,), "an object"),
    "response_format": ((dict,), "an object"),
    "logit_bias": ((dict, list), "an object"),
    "grammar": ((str,), "a string"),
    "samplers": ((str, list), "a list of names"),
    "chat_template_kwargs": ((dict,), "an object"),
    "parallel_tool_calls": ((bool,), "true or false"),
}
"""Fields that llama.cpp ignores without a word when their type is wrong."""


def validate(request: EngineRequest, variant: Variant) -> None:
    """Raise `InvalidRequest` for what llama.cpp would answer badly; else do nothing."""
    path, body = request.path, request.body
    rules = _RULES.get(path)
    if rules is None:
        return
    for field in _REPLY_LIMITS:
        if field in body:
            _check_reply_limit(field, body[field])
    if _PLAIN.issuperset(body):
        if path in _WITH_MESSAGES:
            _check_messages(body, variant)
        return
    for rule in rules:
        rule(body, variant)


def refuse(param: str, why: str) -> NoReturn:
    """Raise with ``param`` named in the message too."""
    raise InvalidRequest(f"{param}: {why}", param=param)


# -- one field ---------------------------------------------------------------------------------


def _check_reply_limit(field: str, value: Any) -> None:
    """-1 is llama.cpp's own word for "up to the end of the context" and stays."""
    if value is None or (type(value) is int and 0 < value <= MAX_INT):
        return
    whole = isinstance(value, float) and value.is_integer()
    if isinstance(value, bool) or not (isinstance(value, int) or whole):
        refuse(field, f"must be a whole number, got {value!r}"[:120])
    if value == 0:
        refuse(field, "must be at least 1: llama.cpp generates a token even for 0")
    if not -1 <= value <= MAX_INT:
        refuse(field, f"must be between 1 and {MAX_INT}, or -1 for no limit")


def _check_types(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    for field, (types, words) in _IGNORED_TYPES.items():
        value = body.get(field)
        if value is not None and not isinstance(value, types):
            refuse(field, f"must be {words}; llama.cpp would ignore it")


def _check_stop(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    _check_stop_strings("stop", body.get("stop"))


def _check_stop_strings(field: str, stop: Any) -> None:
    if stop == "" or (isinstance(stop, list) and "" in stop):
        refuse(field, "an empty string would end every reply at once")


def _check_n(body: Mapping[str, Any], variant: Variant) -> None:
    n = body.get("n")
    if n is None:
        return
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        refuse("n", "must be a whole number of at least 1")
    # An attached server has as many slots as it has: it says so itself.
    if n > variant.parallel and variant.url is None:
        refuse(
            "n", f"at most {variant.parallel} with this variant's `parallel: {variant.parallel}`"
        )


def _check_stream_options(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    if body.get("stream_options") is not None and body.get("stream") is not True:
        refuse("stream_options", "is only allowed together with `stream: true`")


def _check_logit_bias(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    bias = body.get("logit_bias")
    values = bias.values() if isinstance(bias, dict) else ()
    for value in values:
        if value is not False and (isinstance(value, bool) or not isinstance(value, int | float)):
            refuse("logit_bias", "values must be numbers; llama.cpp would ignore others")


def _check_top_logprobs(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    top = body.get("top_logprobs")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 0):
        refuse("top_logprobs", "must be a whole number of at least 0; llama.cpp would ignore it")


def _check_response_format(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    wanted = body.get("response_format")
    if wanted is None:
        return
    if not isinstance(wanted.get("type"), str):
        refuse("response_format.type", "is missing; llama.cpp would reply with free text")
    if wanted["type"] == "json_schema":
        named = wanted.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if not isinstance(schema, dict):
            refuse(
                "response_format.json_schema.schema", "must be an object; any JSON would do else"
            )


# -- what llama.cpp cannot do, asked for -------------------------------------------------------


def _check_legacy_functions(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    for field, instead in (("functions", "tools"), ("function_call", "tool_choice")):
        if body.get(field) not in (None, [], "none"):
            refuse(field, f"llama.cpp ignores this older form; send `{instead}`")


def _check_modalities(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        refuse("modalities", "llama.cpp replies with text only")


def _check_completion_extras(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    if body.get("echo"):
        refuse("echo", "llama.cpp does not repeat the prompt")
    if body.get("suffix"):
        refuse("suffix", "llama.cpp ignores it here; /infill fills a gap")
    if body.get("response_format") not in (None, {"type": "text"}):
        refuse("response_format", "llama.cpp ignores it here; send `json_schema` or `grammar`")
    if not isinstance(body.get("json_schema"), dict | bool | None):
        refuse("json_schema", "must be an object; llama.cpp would ignore it")


def _check_background(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    for field in ("background", "conversation"):
        if body.get(field):
            refuse(field, "llama.cpp keeps no replies and no conversations")


# -- messages ----------------------------------------------------------------------------------


def _check_messages(body: Mapping[str, Any], variant: Variant) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        refuse("messages", "must be a list of at least one message")
    for index, message in enumerate(messages):
        if _is_plain_message(message):
            continue
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            refuse(where, "must be an object")
        role = message.get("role")
        if not isinstance(role, str) or not role:
            refuse(f"{where}.role", "must be a string such as 'user'")
        if not isinstance(message.get("name"), str | None):
            refuse(f"{where}.name", "must be a string")
        content = message.get("content")
        if content is None and role != "assistant":
            refuse(f"{where}.content", "must be a string or a list of parts")
        if isinstance(content, list):
            for part_index, part in enumerate(content):
                _check_part(part, f"{where}.content[{part_index}]", variant)
        _check_tool_calls(message.get("tool_calls"), f"{where}.tool_calls")


def _is_plain_message(message: Any) -> bool:
    """A role and a text and nothing else, as most are: no rule finds a fault with those."""
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("role")) is str
        and message["role"] != ""
        and type(message.get("content")) is str
    )


def _check_part(part: Any, where: str, variant: Variant) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        refuse(where, "must be an object with a `type`")
    kind = part["type"]
    if kind == "text" and not isinstance(part.get("text"), str):
        refuse(f"{where}.text", "must be a string")
    if variant.features is None:
        return
    for kinds, feature in ((_IMAGE_PARTS, "images"), (_AUDIO_PARTS, "audio")):
        if kind in kinds and feature not in variant.features:
            refuse(where, f"this variant takes no {feature}")


def _check_tool_calls(calls: Any, where: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        refuse(where, "must be a list")
    for index, call in enumerate(calls):
        place = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type") != "function":
            refuse(place, "must be {'type': 'function', 'function': {...}}")
        if not isinstance(function.get("name"), str):
            refuse(f"{place}.function.name", "must be a string")
        if "arguments" not in function:
            refuse(f"{place}.function.arguments", "is missing")
        if isinstance(function["arguments"], str):
            _check_json(function["arguments"], f"{place}.function.arguments")


def _check_json(text: str, where: str) -> None:
    def not_json(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=not_json)  # NaN is JSON to Python, not to llama.cpp
    except ValueError:
        refuse(where, "must be JSON in a string, '{}' for none")
    except RecursionError:
        refuse(where, "is nested too deeply")


# -- tools -------------------------------------------------------------------------------------


def _check_chat_tools(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    names = set()
    for where, tool in _tools(body):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            refuse(where, "must be {'type': 'function', 'function': {...}}")
        if not isinstance(function.get("name"), str):
            refuse(f"{where}.function.name", "must be a string")
        if not isinstance(function.get("description", ""), str):
            refuse(f"{where}.function.description", "must be a string")
        names.add(function["name"])
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        function = choice.get("function")
        if choice.get("type") != "function" or not isinstance(function, dict):
            refuse("tool_choice", "llama.cpp knows 'auto', 'none', 'required' and one function")
        choice = _known(function.get("name"), names)
    _check_choice(choice, names)


def _check_flat_tools(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    """Anthropic's and the Responses API's tools carry their name at the top."""
    names = {tool.get("name") for _, tool in _tools(body) if isinstance(tool.get("name"), str)}
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and "name" in choice:
        choice = _known(choice["name"], names)
    elif isinstance(choice, dict):
        choice = choice.get("type")
    _check_choice(choice, names)


def _tools(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        refuse("tools", "must be a list")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            refuse(f"tools[{index}]", "must be an object")
        yield f"tools[{index}]", tool


def _known(name: Any, names: set[Any]) -> str:
    if not isinstance(name, str) or name not in names:
        refuse("tool_choice", f"there is no tool {name!r}"[:120])
    return "required"


def _check_choice(choice: Any, names: set[Any]) -> None:
    if choice is not None and not isinstance(choice, str):
        refuse("tool_choice", "must be a string or an object; llama.cpp would ignore it")
    if choice in {"required", "any"} and not names:
        refuse("tool_choice", "is only allowed together with `tools`")


def _check_anthropic_tools(body: Mapping[str, Any], variant: Variant) -> None:  # noqa: ARG001  # a rule
    for where, tool in _tools(body):
        if not isinstance(tool.get("name"), str):
            refuse(f"{where}.name", "must be a string")
    _check_stop_strings("stop_sequences", body.get("stop_sequences"))
    if not isinstance(body.get("stop_sequences"), list | None):
        refuse("stop_sequences", "must be a list of strings; llama.cpp would ignore it")


_Rule = Callable[[Mapping[str, Any], Variant], None]
_SAMPLING: tuple[_Rule, ...] = (_check_types, _check_stop, _check_n, _check_stream_options)
_ANTHROPIC: tuple[_Rule, ...] = (_check_messages, _check_anthropic_tools, _check_flat_tools)

_RULES: Mapping[str, tuple[_Rule, ...]] = {
    CHAT: (
        _check_messages,
        *_SAMPLING,
        _check_logit_bias,
        _check_top_logprobs,
        _check_response_format,
        _check_legacy_functions,
        _check_modalities,
        _check_chat_tools,
    ),
    COMPLETIONS: (*_SAMPLING, _check_logit_bias, _check_completion_extras),
    MESSAGES: _ANTHROPIC,
    f"{MESSAGES}/count_tokens": _ANTHROPIC,
    RESPONSES: (_check_flat_tools, _check_background),
}
"""Rules by route; the first that fails is the answer."""
