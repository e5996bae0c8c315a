"""What the mock says. Pure: a seed and a prompt in, a whole reply out.

Knows: how to make sentences, and where a reply ends. Does not know: requests, time or HTTP. The reply
is made in one go and only sent slowly, so streams and whole replies agree, and the same seed and
prompt give the same id, tokens and usage on every machine and version of Python.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from enginery.api.openai import FinishReason
from enginery_mock.tokens import pieces
from enginery_mock.tools import Offer, Tool, chosen_tool, write_arguments

__all__ = ["Reply", "compose", "make_reply"]

# Words have at most eight letters, so that each is one token.
_OPENERS = ("Today", "Often", "At night", "In short", "Here", "Later", "As a rule", "By the way")
_ADJECTIVES = ("quiet", "small", "bright", "old", "patient", "green", "careful", "warm", "steady")
_NOUNS = (
    "engine",
    "river",
    "lamp",
    "garden",
    "letter",
    "bridge",
    "clock",
    "sailor",
    "window",
    "map",
)
_VERBS = (
    "carries",
    "finds",
    "follows",
    "keeps",
    "repairs",
    "watches",
    "answers",
    "measures",
    "paints",
)
_PLACES = ("near", "beyond", "under", "beside", "across", "behind", "above")

MIN_SENTENCES = 2
MAX_SENTENCES = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole reply.

    Args:
        id: hexadecimal, without a prefix.
        pieces: its tokens as text, in order.
        finish_reason: ``"stop"`` at its own end or a stop string, ``"length"`` when it was cut,
            ``"tool_calls"`` when it calls a tool, ``"abort"`` when the server was told to end it.
        tool: the tool that it calls; then the pieces are those of the arguments, as JSON.
        stop: the stop string before which it ended, if any.
    """

    id: str
    pieces: tuple[str, ...]
    finish_reason: FinishReason
    tool: str | None = None
    stop: str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    def ended(self, tokens: int) -> Reply:
        """The same, but told to end after so many tokens."""
        return replace(self, pieces=self.pieces[:tokens], finish_reason="abort", stop=None)


def make_reply(
    seed: int,
    prompt: Any,
    *,
    limit: int,
    stop: Sequence[str] = (),
    request_seed: int | None = None,
    ignore_eos: bool = False,
    tools: Offer | None = None,
) -> Reply:
    """The reply to ``prompt``.

    Args:
        seed: the engine's.
        prompt: the messages or the prompt, as decoded from JSON.
        limit: the most tokens that it may have, at least 1.
        stop: the text ends before the first of these.
        request_seed: the request's own seed, which changes the reply like another engine's seed.
        ignore_eos: does not end by itself: the reply has exactly ``limit`` tokens.
        tools: what it may call instead of saying something.
    """
    digest, chance = _dice(seed, request_seed, prompt)
    if tools is not None:
        tool = chosen_tool(tools, prompt, chance.random)
        if tool is not None:
            return _call(digest.hex()[:24], tool, chance, limit)
    wanted = None if ignore_eos else _below(chance, MIN_SENTENCES, MAX_SENTENCES + 1)
    said: list[str] = []
    for number, sentence in enumerate(compose(chance)):
        if number == wanted or len(said) > limit:
            break
        said += pieces(sentence if number == 0 else f" {sentence}")
    finish: FinishReason = "length" if len(said) > limit else "stop"
    if ignore_eos:
        finish = "length"
    kept, stopped = _until_stop(said[:limit], stop)
    reason = finish if stopped is None else "stop"
    return Reply(digest.hex()[:24], tuple(kept), reason, stop=stopped)


def _dice(seed: int, request_seed: int | None, prompt: Any) -> tuple[bytes, random.Random]:
    told = json.dumps([seed, request_seed, prompt], sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(told.encode()).digest()
    return digest, random.Random(int.from_bytes(digest))  # noqa: S311  # repeatable is what it must be


def _call(id: str, tool: Tool, chance: random.Random, limit: int) -> Reply:
    said = pieces(json.dumps(write_arguments(tool.schema, chance.random)))
    cut = len(said) > limit
    return Reply(id, tuple(said[:limit]), "length" if cut else "tool_calls", tool=tool.name)


def compose(chance: random.Random) -> Iterator[str]:
    """Sentences without end, English in form."""

    # Only `random()` itself keeps its sequence between versions of Python, for seeds that are integers.
    def one_of(words: Sequence[str]) -> str:
        return words[_below(chance, 0, len(words))]

    while True:
        yield (
            f"{one_of(_OPENERS)}, the {one_of(_ADJECTIVES)} {one_of(_NOUNS)} {one_of(_VERBS)} "
            f"the {one_of(_NOUNS)} {one_of(_PLACES)} the {one_of(_ADJECTIVES)} {one_of(_NOUNS)}."
        )


def _below(chance: random.Random, low: int, high: int) -> int:
    return low + int(chance.random() * (high - low))


def _until_stop(said: list[str], stop: Sequence[str]) -> tuple[list[str], str | None]:
    """The pieces up to the first stop string, the last one cut, and which it was."""
    text = "".join(said)
    places = [(at, word) for word in stop if (at := text.find(word)) >= 0]
    if not places:
        return said, None
    left, word = min(places, key=itemgetter(0))
    kept = []
    for piece in said:
        if left <= 0:
            break
        kept.append(piece[:left])
        left -= len(piece)
    return kept, word
