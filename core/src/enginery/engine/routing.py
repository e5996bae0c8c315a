"""Which variants of a model can serve a request, the best first. Pure.

Knows: bounds on the prompt's tokens and each variant's context length. Does not know: which variant
is resident; the scheduler prefers that one among the candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

from enginery.errors import ContextLengthExceeded
from enginery.values import TokenEstimate, Variant

__all__ = ["candidates"]


def candidates(
    variants: Sequence[Variant], estimate: TokenEstimate, reply_tokens: int
) -> tuple[Variant, ...]:
    """The variants that are certain to fit, the smallest first; where none is, the largest.

    Args:
        variants: one model's; a context length of None counts as without bound.
        estimate: bounds on the prompt's tokens.
        reply_tokens: what the reply may take.

    Raises:
        ContextLengthExceeded: even the lower bound fits none.
    """
    ordered = sorted(variants, key=_size)
    largest = ordered[-1]
    if estimate.low + reply_tokens > _size(largest):
        raise ContextLengthExceeded(
            f"the request needs at least {estimate.low + reply_tokens} tokens ({estimate.low} of prompt, "
            f"{reply_tokens} for the reply); {largest.model} takes {largest.context_length}",
            prompt_tokens=estimate.low,
            context_length=largest.context_length,
            param="messages",
        )
    if estimate.high is None:
        return (largest,)
    needed = estimate.high + reply_tokens
    return tuple(variant for variant in ordered if needed <= _size(variant)) or (largest,)


def _size(variant: Variant) -> float:
    return float("inf") if variant.context_length is None else variant.context_length
