"""Which variants of a model can serve a request, the best first. Pure.

Knows: bounds on the prompt's tokens, the reply's budget, and each variant's context length. Does not know: which
variant is resident; the scheduler prefers that one among the candidates.

The prompt decides what is refused, prompt and reply together where a request goes. A reply's budget that fits
nowhere is no reason to refuse: engines differ in what they make of it (llama.cpp stops at the end of its
context, vLLM answers 400), and mostly nobody asked for it, it is our default. So such a request goes to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginery.errors import ContextLengthExceeded
from enginery.values import EngineRequest, TokenEstimate, Variant

__all__ = ["candidates", "reply_budget", "undecided"]

BUDGETS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")
"""Fields that limit a reply, the one that wins first: chat's new and old, responses', llama.cpp's own."""

NO_REPLY = frozenset(
    {
        "count_tokens",
        "detokenize",
        "embedding",
        "embeddings",
        "input_tokens",
        "rerank",
        "reranking",
        "tokenize",
    }
)
"""Last segments of routes whose answer is not generated."""


def reply_budget(request: EngineRequest, default: int) -> int:
    """Tokens that the reply may take: what the request allows, else ``default``; 0 where none is generated.

    A limit below zero is llama.cpp's "no limit", and one that is no whole number is the engine's to refuse: both
    count as not given.
    """
    if request.path.rstrip("/").rpartition("/")[2] in NO_REPLY:
        return 0
    for field in BUDGETS:
        value = request.body.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return default


def candidates(
    variants: Sequence[Variant], estimate: TokenEstimate, reply_tokens: int
) -> tuple[Variant, ...]:
    """The variants that are certain to fit, the smallest first; where none is, the largest.

    Args:
        variants: one model's; a context length of None counts as without bound.
        estimate: bounds on the prompt's tokens.
        reply_tokens: what the reply may take.

    Raises:
        ContextLengthExceeded: the prompt's lower bound, and one token of a reply, fit none.
    """
    ordered = sorted(variants, key=_size)
    largest = ordered[-1]
    if estimate.low + min(reply_tokens, 1) > _size(largest):
        reply = " and the reply needs room too" if reply_tokens else ""
        raise ContextLengthExceeded(
            f"the prompt has at least {estimate.low} tokens{reply}; {largest.model} takes "
            f"{largest.context_length}",
            prompt_tokens=estimate.low,
            context_length=largest.context_length,
            param="messages",
        )
    sure = () if estimate.high is None else _with_room(ordered, estimate.high + reply_tokens)
    return sure or _with_room(ordered, _size(largest))


def undecided(
    variants: Sequence[Variant], estimate: TokenEstimate, reply_tokens: int
) -> tuple[Variant, ...]:
    """Variants that may fit, but of which the bounds cannot say: the exact number of tokens would decide.

    They are smaller than all of `candidates`, whose arguments these are; the smallest comes first.
    """
    if estimate.low == estimate.high:
        return ()
    chosen = candidates(variants, estimate, reply_tokens)
    perhaps = _with_room(sorted(variants, key=_size), estimate.low + reply_tokens)
    return tuple(variant for variant in perhaps if _size(variant) < _size(chosen[0]))


def _with_room(ordered: Sequence[Variant], tokens: float) -> tuple[Variant, ...]:
    return tuple(variant for variant in ordered if tokens <= _size(variant))


def _size(variant: Variant) -> float:
    return float("inf") if variant.context_length is None else variant.context_length
