"""A request inside a native backend: its tokens, what is computed of them, and where they lie.

Knows: one request's state while it waits and runs. Does not know: other requests, the order among
them, or whose turn it is. The scheduler changes everything here but ``block_ids`` and what belongs to
them, which the KV ledger owns; an executor only reads.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from enginery.enginecore.messages import EngineCoreRequest, FinishReason
from enginery.enginecore.sampling import SamplingParams
from enginery.errors import ContextLengthExceeded

__all__ = ["Request", "RequestStatus"]


class RequestStatus(IntEnum):
    """Where a request is. PREEMPTED waits like WAITING, but keeps the tokens it has produced."""

    WAITING = 0
    RUNNING = 1
    PREEMPTED = 2
    FINISHED = 3
    ABORTED = 4


class Request(msgspec.Struct, eq=False, gc=False, kw_only=True):
    """One request that a scheduler holds. Made by `Request.of`.

    Args:
        request_id: unique among the scheduler's requests.
        sampling_params: as they came.
        token_ids: the prompt, then what was produced; only ever appended to.
        num_prompt_tokens: how many of ``token_ids`` are the prompt.
        length_limit: the reply ends when ``token_ids`` is this long.
        stop_ids: token ids that end the reply, the end of sequence among them.
        eos_token_id: the end of sequence, which is no ``stop_reason``; None when it ends nothing.
        rank: among requests, the lowest goes first.
        cache_salt: prefixes are shared only with the same salt.
        status: where it is.
        num_computed_tokens: tokens whose keys and values are in the cache.
        num_cached_tokens: tokens of the prompt that were there from the beginning.
        finish_reason: None while it goes on.
        block_ids: blocks of the KV cache, in the order of the tokens.
        block_hashes: of the blocks that its tokens fill, as far as somebody asked; kept for ever.
        num_hashed_blocks: how many of ``block_ids`` others can find, or need not.
        room: tokens that fit in ``block_ids``.
        next_hash_at: number of computed tokens at which the next block is full.
    """

    request_id: str
    sampling_params: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    length_limit: int
    stop_ids: frozenset[int]
    eos_token_id: int | None = None
    rank: tuple[float, int] = (0.0, 0)
    cache_salt: str | None = None
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    block_ids: list[int] = []
    block_hashes: list[bytes] = []
    room: int = 0
    next_hash_at: int = 0
    num_hashed_blocks: int = 0

    @classmethod
    def of(
        cls,
        request: EngineCoreRequest,
        max_model_len: int,
        rank: tuple[float, int],
        eos_token_id: int | None = None,
    ) -> Request:
        """The request as a scheduler keeps it; ``eos_token_id`` is for one that brings none.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for one token of the reply.
        """
        prompt = list(request.prompt_token_ids or ())
        params = request.sampling_params
        if len(prompt) >= max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; with one token of the reply at most"
                f" {max_model_len} fit",
                prompt_tokens=len(prompt),
                context_length=max_model_len,
                param="prompt_token_ids",
            )
        limit = max_model_len
        if params.max_tokens is not None:
            limit = min(limit, len(prompt) + params.max_tokens)
        eos = eos_token_id if request.eos_token_id is None else request.eos_token_id
        if params.ignore_eos:
            eos = None
        stops = params.stop_token_ids if eos is None else (*params.stop_token_ids, eos)
        return cls(
            request_id=request.request_id,
            sampling_params=params,
            token_ids=prompt,
            num_prompt_tokens=len(prompt),
            length_limit=limit,
            stop_ids=frozenset(stops),
            eos_token_id=eos,
            rank=rank,
            cache_salt=request.cache_salt,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and reply so far."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the reply so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """The reply so far, as a copy."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def is_finished(self) -> bool:
        """True once nothing more will come of it."""
        return self.status >= RequestStatus.FINISHED

    def append(self, tokens: list[int]) -> list[int]:
        """Take new tokens, and return those that belong to the reply: none after its end.

        Sets `finish_reason` at the first token that ends it. Until ``min_tokens`` only the length
        limit does.
        """
        for at, token in enumerate(tokens):
            self.token_ids.append(token)
            length = len(self.token_ids)
            if token in self.stop_ids and (
                length - self.num_prompt_tokens >= self.sampling_params.min_tokens
            ):
                self.finish_reason = FinishReason.STOP
            elif length >= self.length_limit:
                self.finish_reason = FinishReason.LENGTH
            else:
                continue
            return tokens[: at + 1]
        return tokens
