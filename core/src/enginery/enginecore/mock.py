"""A model that is none: tokens from a formula, so that everything around it can be tested and measured.

Knows: which token follows, and how to be slow, to fail, to hang and to crash at a given step. Does not
know: scheduling, clients or processes. The token at a place depends on the seed, the prompt and the
place alone, so a reply is the same in every kind of client, after preemption and after sleep.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar

from enginery.enginecore.chat import plain_chat
from enginery.enginecore.executor import Executor, ModelRunnerOutput, SchedulerOutput
from enginery.enginecore.kvcache import KVLedger
from enginery.enginecore.native import NativeBackend
from enginery.enginecore.request import Request
from enginery.enginecore.scheduler import SimpleScheduler
from enginery.errors import EngineBusy, InvalidRequest

__all__ = ["MockExecutor", "MockTokenizer", "create_backend"]

CRASH_STATUS = 70
"""Exit status of a core that crashes by option (EX_SOFTWARE of sysexits.h)."""

_MASK = (1 << 64) - 1
_GOLDEN = (
    0x9E3779B97F4A7C15  # splitmix64 (Steele, Lea, Flood 2014), which can be asked for any place
)
_MIX = 0xBF58476D1CE4E5B9


class MockExecutor(Executor):
    """Computes nothing, repeatably.

    Args:
        seed: of requests that bring none.
        vocab: (first, last) token id that it produces.
        tokens_per_step: new tokens per request and step, as speculative decoding has more than one.
        step_ms: milliseconds that every step takes; the GIL is free meanwhile.
        prefill_us_per_token: microseconds for each token of a prompt, on top.
        fail_at_step: the step, counted from 1, that raises RuntimeError; 0, none.
        hang_at_step: the step that never ends; 0, none.
        crash_at_step: the step in which the process ends at once, with status 70; 0, none.
        sleep: how to wait, in seconds.
    """

    sleep_levels: ClassVar[tuple[int, ...]] = (1, 2)

    def __init__(
        self,
        *,
        seed: int = 0,
        vocab: tuple[int, int] = (0, 31_999),
        tokens_per_step: int = 1,
        step_ms: float = 0.0,
        prefill_us_per_token: float = 0.0,
        fail_at_step: int = 0,
        hang_at_step: int = 0,
        crash_at_step: int = 0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        first, last = vocab
        if not 0 <= first <= last:
            raise ValueError(f"vocab must be (first, last) with 0 <= first <= last, got {vocab}")
        if tokens_per_step < 1:
            raise ValueError(f"tokens_per_step must be at least 1, got {tokens_per_step}")
        self.steps = 0
        """Steps that were begun, dummies among them."""
        self._seed = seed
        self._first = first
        self._span = last - first + 1
        self._tokens_per_step = tokens_per_step
        self._step_s = step_ms / 1000
        self._prefill_s = prefill_us_per_token / 1e6
        self._fail_at = fail_at_step
        self._hang_at = hang_at_step
        self._crash_at = crash_at_step
        self._sleep_s = sleep
        self._starts: dict[str, int] = {}
        self._missing: set[str] = set()

    def execute_model(self, work: SchedulerOutput) -> ModelRunnerOutput:
        """The next tokens of those whose prompt is complete with this step."""
        self._begin(work)
        starts, first, span = self._starts, self._first, self._span
        for request_id in work.finished:
            starts.pop(request_id, None)
        sampled: list[list[int]] = []
        add = sampled.append
        many = self._tokens_per_step
        for request, count in zip(work.scheduled_requests, work.num_scheduled_tokens, strict=True):
            place = request.num_computed_tokens + count
            if place < len(request.token_ids):
                add([])
                continue
            start = starts.get(request.request_id)
            if start is None:
                start = starts[request.request_id] = self._start_of(request)
            if many == 1:
                x = (start + place * _GOLDEN) & _MASK
                x = ((x ^ (x >> 30)) * _MIX) & _MASK
                add([first + (x >> 33) % span])
            else:
                add([self._token(start, place + ahead) for ahead in range(many)])
        return ModelRunnerOutput(sampled)

    def sleep(self, level: int) -> None:
        """Count weights and cache as gone; level 1 keeps nothing else than level 2 does, here."""
        if level not in self.sleep_levels:
            raise InvalidRequest(f"level must be one of {self.sleep_levels}", param="level")
        self._missing = {"weights", "kv_cache"}

    def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Count them as there again."""
        self._missing -= set(self._missing if tags is None else tags)
        return not self._missing

    def execute_dummy_batch(self) -> None:
        """A step without a request. Raises `EngineBusy` while asleep."""
        self._begin(SchedulerOutput([], []))

    def _begin(self, work: SchedulerOutput) -> None:
        if self._missing:
            raise EngineBusy(f"the mock sleeps: {' and '.join(sorted(self._missing))} missing")
        self.steps += 1
        if self.steps == self._fail_at:
            raise RuntimeError(f"the mock executor fails at step {self.steps}, as asked")
        if self.steps == self._crash_at:
            os._exit(CRASH_STATUS)
        while self.steps == self._hang_at:
            self._sleep_s(3600.0)
        wait = self._step_s
        if self._prefill_s:
            wait += work.num_prefill_tokens * self._prefill_s
        if wait:
            self._sleep_s(wait)

    def _start_of(self, request: Request) -> int:
        seed = request.sampling_params.seed
        seed = self._seed if seed is None else seed
        prompt = array("q", request.token_ids[: request.num_prompt_tokens]).tobytes()
        digest = blake2b(prompt, digest_size=8, key=str(seed).encode()).digest()
        return int.from_bytes(digest, "little")

    def _token(self, start: int, place: int) -> int:
        x = (start + place * _GOLDEN) & _MASK
        x = ((x ^ (x >> 30)) * _MIX) & _MASK
        return self._first + (x >> 33) % self._span


class MockTokenizer:
    """One token per byte, then some words, then the end of sequence.

    Ids 0 to 255 are bytes, so every text can be encoded, and a character of several bytes is several
    tokens, as with byte-level BPE. Words begin with a space; the mock model speaks in them.
    """

    WORDS = (
        " the quick brown fox jumps over a lazy dog while engines hum and tokens flow like water under"
        " an old bridge — naïve café über 東京 🦊 ."
    )

    def __init__(self) -> None:
        words = [f" {word}".encode() for word in self.WORDS.split()]
        self._pieces = [bytes([byte]) for byte in range(256)] + words
        self.eos_token_id = len(self._pieces)
        self.vocab_size = self.eos_token_id + 1

    def encode(self, text: str) -> list[int]:
        """One id per byte of UTF-8."""
        return list(text.encode("utf-8", "replace"))

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """The text; ids outside the vocabulary raise IndexError."""
        special = b"</s>"
        if spaces_between_special_tokens:
            special = b" </s>"
        if skip_special_tokens:
            special = b""
        pieces, eos = self._pieces, self.eos_token_id
        joined = b"".join(special if token == eos else pieces[token] for token in ids)
        return joined.decode("utf-8", "replace")

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The plain template."""
        return plain_chat(messages)


def create_backend(
    *,
    max_batch_size: int = 32,
    max_tokens: int = 4096,
    seed: int = 0,
    max_model_len: int = 4096,
    block_size: int = 16,
    num_blocks: int | None = None,
    prefix_caching: bool = True,
    aging_s: float = 10.0,
    text: bool = True,
    **mock: Any,
) -> NativeBackend:
    """A `NativeBackend` around a `MockExecutor`; what `ClientConfig.backend` names by default.

    Args:
        max_batch_size: requests that run at once.
        max_tokens: the budget of a step, prompts and replies together; at least ``max_batch_size``.
        seed: of requests that bring none.
        max_model_len: tokens per request.
        block_size: tokens per KV block.
        num_blocks: KV blocks; None, enough for all requests at full length.
        prefix_caching: share blocks with equal prefixes.
        aging_s: seconds of waiting that one step of priority is worth.
        text: use `MockTokenizer`: text in and out, and words for tokens. Otherwise token ids alone.
        mock: further options of `MockExecutor`.
    """
    if num_blocks is None:
        num_blocks = max_batch_size * -(-max_model_len // block_size)
    scheduler = SimpleScheduler(
        KVLedger(num_blocks, block_size, prefix_caching=prefix_caching),
        max_model_len=max_model_len,
        max_num_seqs=max_batch_size,
        max_num_batched_tokens=max_tokens,
        aging_s=aging_s,
    )
    if not text:
        return NativeBackend(scheduler, MockExecutor(seed=seed, **mock))
    tokenizer = MockTokenizer()
    mock.setdefault("vocab", (256, tokenizer.eos_token_id - 1))
    return NativeBackend(
        scheduler,
        MockExecutor(seed=seed, **mock),
        tokenizer=tokenizer,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=tokenizer.vocab_size,
    )
