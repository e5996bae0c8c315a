"""From a request's body to what is to be generated. Pure.

Knows: the fields of chat completions, completions, responses and messages that the mock honours: the
conversation or ``prompt``, ``max_tokens`` (``max_completion_tokens``, ``max_output_tokens``), ``stop``
(``stop_sequences``), ``stream``, ``stream_options.include_usage``, ``seed``, ``n`` (only 1), ``tools`` and
``tool_choice``, and ``ignore_eos`` as llama.cpp and vLLM have it. Other fields have no effect; those of sampling
must make sense all the same (`sampling`). Does not know: slots, time or HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from enginery import ContextLengthExceeded, InvalidRequest
from enginery.api.body import DecodedBody
from enginery_mock.conversations import COMPLETIONS_PATH, RESPONSES_PATH, chat_messages
from enginery_mock.replies import Reply, make_reply
from enginery_mock.sampling import check_sampling
from enginery_mock.tokens import request_tokens
from enginery_mock.tools import Offer, read_tools

__all__ = ["Generation", "check_room", "generate", "read_generation"]

_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Generation:
    """One request, checked. ``max_tokens`` None: until the reply's own end or the context's."""

    path: str
    prompt: Any
    prompt_tokens: int
    max_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    seed: int | None
    ignore_eos: bool
    user: str | None = None
    tools: Offer = field(default_factory=Offer)


def read_generation(path: str, body: DecodedBody) -> Generation:
    """Check a body for ``path``.

    Raises:
        InvalidRequest: a field is wrong; ``param`` names it.
    """
    prompt = _prompt(body) if path == COMPLETIONS_PATH else _messages(path, body)
    if _integer(body, "n", least=1) not in {None, 1}:
        raise InvalidRequest("the mock engine gives one choice: n must be 1", param="n")
    check_sampling(body)
    limits = [_integer(body, name, least=1) for name in _LIMITS]
    return Generation(
        path=path,
        prompt=prompt,
        prompt_tokens=request_tokens(path, body.object),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        stop=_stop(body, "stop") + _stop(body, "stop_sequences"),
        stream=body.stream,
        include_usage=_include_usage(body),
        seed=_integer(body, "seed"),
        ignore_eos=body.get("ignore_eos") is True,
        user=body.get("user") if isinstance(body.get("user"), str) else None,
        tools=Offer() if path == COMPLETIONS_PATH else _tools(path, body),
    )


def generate(wanted: Generation, *, seed: int, context_length: int) -> Reply:
    """The reply, cut where the context ends.

    Raises:
        ContextLengthExceeded: the prompt leaves no room for a single token, llama.cpp's rule.
    """
    room = check_room(wanted.prompt_tokens, context_length)
    return make_reply(
        seed,
        wanted.prompt,
        limit=room if wanted.max_tokens is None else min(room, wanted.max_tokens),
        stop=wanted.stop,
        request_seed=wanted.seed,
        ignore_eos=wanted.ignore_eos,
        tools=wanted.tools,
    )


def check_room(prompt_tokens: int, context_length: int) -> int:
    """The tokens that are left for a reply, at least 1.

    Raises:
        ContextLengthExceeded: there is no room for a single one, llama.cpp's rule.
    """
    room = context_length - prompt_tokens
    if room <= 0:
        raise ContextLengthExceeded(
            f"request ({prompt_tokens} tokens) exceeds the available context size "
            f"({context_length} tokens), try increasing it",
            prompt_tokens=prompt_tokens,
            context_length=context_length,
        )
    return room


def _messages(path: str, body: DecodedBody) -> list[Any]:
    name = "input" if path == RESPONSES_PATH else "messages"
    messages = chat_messages(path, body.object)
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"{name} must be a list of at least one message", param=name)
    for number, message in enumerate(messages):
        where = f"{name}[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRequest(f"{where} must be an object with a role", param=where)
        if not isinstance(message.get("content"), str | list | None):
            raise InvalidRequest(
                f"{where}.content must be a string or a list of parts", param=where
            )
    return messages


def _tools(path: str, body: DecodedBody) -> Offer:
    return read_tools(path, body.get("tools"), body.get("tool_choice"))


def _prompt(body: DecodedBody) -> Any:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    ids = isinstance(prompt, list) and all(type(item) is int for item in prompt)
    if not isinstance(prompt, str) and not ids:
        raise InvalidRequest("prompt must be one string or one list of token ids", param="prompt")
    return prompt


def _stop(body: DecodedBody, name: str) -> tuple[str, ...]:
    stop = body.get(name)
    words = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
        raise InvalidRequest(f"{name} must be a string or strings, none empty", param=name)
    return tuple(words)


def _include_usage(body: DecodedBody) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not (isinstance(options, dict) and body.stream):
        raise InvalidRequest(
            "stream_options must be an object, and needs stream", param="stream_options"
        )
    return options.get("include_usage") is True


def _integer(body: DecodedBody, name: str, *, least: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:  # true is an int to Python
        raise InvalidRequest(f"{name} must be an integer", param=name)
    if least is not None and value < least:
        raise InvalidRequest(f"{name} must be at least {least}, got {value}", param=name)
    return value
