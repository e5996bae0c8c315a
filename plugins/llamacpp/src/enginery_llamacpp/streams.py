"""Which replies are asked for as streams, and what a stream with several choices costs in all.

Knows: that llama.cpp notices a client's leaving only while it streams, and that it counts tokens for
each choice by itself. Does not know: how a stream becomes one reply; the framework folds it. Pure.

With ``n`` over 1, or several prompts, a whole reply says the usage of the first choice alone. A stream
says it for each choice: chats in a chunk of its own, completions in the choice's last chunk. So these
requests always go out as streams, and `SummedUsage` adds up. Held against the real llama.cpp by
``tests/llamacpp/test_streams.py``; measured on b11549.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginery import EngineRequest, Variant
from enginery_llamacpp.options import options_of
from enginery_llamacpp.requests import ends_with_assistant
from enginery_llamacpp.tokens import split_prompts
from enginery_llamacpp.validation import CHAT, COMPLETIONS, MESSAGES, RESPONSES

__all__ = ["SummedUsage", "prefers_stream", "summed_usage"]

_FOLDED = frozenset({CHAT, COMPLETIONS, MESSAGES, RESPONSES})


def prefers_stream(request: EngineRequest, variant: Variant) -> bool:
    """True for a whole reply that is better put together from a stream."""
    if request.stream or request.path not in _FOLDED:
        return False
    options = options_of(variant.options)
    if options.in_process:
        return False
    if _has_choices(request):
        return True  # only a stream says what all of them cost
    if not options.fold_replies:
        return False
    # whole replies of messages begin with what the client put into the assistant's mouth, streams do not
    return not (request.path == MESSAGES and ends_with_assistant(request.body))


def summed_usage(request: EngineRequest) -> SummedUsage | None:
    """What this request's stream needs; None where llama.cpp's own usage is right."""
    if not _has_choices(request):
        return None
    options = request.body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    if request.path == CHAT and request.stream and not asked:
        return None  # there is no usage in it
    n = request.body.get("n")
    return SummedUsage(n if type(n) is int else 1, wanted=asked or not request.stream)


def _has_choices(request: EngineRequest) -> bool:
    path, body = request.path, request.body
    if "n" in body:
        n = body["n"]
        if type(n) is int and n > 1:
            return path in {CHAT, COMPLETIONS}
    return path == COMPLETIONS and len(split_prompts(body.get("prompt"))) > 1


class SummedUsage:
    """One usage for a stream with several choices, in a chunk of its own at the end, as OpenAI has it.

    A prompt counts once, however many choices it has; their replies count each. The timings in the
    chunk that is added up are left out: they are those of one choice.

    Args:
        n: choices for each prompt, which follow each other in ``index``.
        wanted: False when the client asked for no usage: then none is sent.
    """

    def __init__(self, n: int, *, wanted: bool) -> None:
        self._n = max(1, n)
        self._wanted = wanted
        self._prompts: dict[int, int] = {}
        self._cached: dict[int, int] = {}
        self._completion = 0
        self._last: dict[str, Any] | None = None

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole reply stays as it is: it does not say what its other choices cost."""
        return body

    def chunk(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunk without usage, which is counted; a chunk of nothing else is held back."""
        usage = body.get("usage")
        if not isinstance(usage, dict):
            return [body]
        choices = body.get("choices") or []
        self._count(usage, choices[0].get("index", 0) // self._n if choices else 0)
        self._last = body
        return [{name: value for name, value in body.items() if name != "usage"}] if choices else []

    def _count(self, usage: Mapping[str, Any], prompt: int) -> None:
        self._completion += usage.get("completion_tokens", 0)
        self._prompts[prompt] = usage.get("prompt_tokens", 0)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        # the later choices of a prompt find in the cache what the first one put there
        self._cached[prompt] = min(cached, self._cached.get(prompt, cached))

    def end(self) -> list[dict[str, Any]]:
        """The sum, where it was asked for."""
        if self._last is None or not self._wanted:
            return []
        prompt = sum(self._prompts.values())
        usage = {
            "completion_tokens": self._completion,
            "prompt_tokens": prompt,
            "total_tokens": prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached.values())},
        }
        kept = {name: value for name, value in self._last.items() if name != "timings"}
        return [{**kept, "choices": [], "usage": usage}]
