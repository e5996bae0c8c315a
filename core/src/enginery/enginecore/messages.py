"""What an engine core and its clients say to each other: one definition of each message.

Knows: the messages' fields, units and ranges. Does not know: bytes and frames (`wire`), who sends
them, or how a request is run. All are msgspec structs that travel as arrays, so fields are only ever
appended, with a default: an older reader skips what it does not know. Times are seconds of
`time.monotonic`, which processes of one machine share.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal

import msgspec

from enginery.enginecore.failures import Failure
from enginery.enginecore.sampling import SamplingParams
from enginery.errors import InvalidRequest

__all__ = [
    "Capabilities",
    "CoreState",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "FinishReason",
    "PauseMode",
    "PromptForm",
    "RequestType",
]

PromptForm = Literal["tokens", "text", "messages"]

PauseMode = Literal["abort", "wait", "keep"]
"""What becomes of running requests: they end, they finish first, or they stand still."""


class RequestType(IntEnum):
    """What a client asks of a core; the number is the frame's type byte.

    Profile, cache reset, sleep and wake-up are utilities: calls by name that have an answer.
    """

    ADD_REQUEST = 0
    ABORT_REQUESTS = 1
    UTILITY = 3
    HELLO = 7
    SHUTDOWN = 9


class FinishReason(IntEnum):
    """Why a request ended. ``str()`` gives the word that APIs use; the number is the wire's.

    STOP is a stop string, a stop token or the end of sequence; LENGTH the token limit or the end of
    the context; ABORT the client's or the core's wish; ERROR comes with `EngineCoreOutput.error`.
    """

    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


class CoreState(IntEnum):
    """The states of a core, in the order of their lives. Only the core itself changes it.

    RUNNING ⇄ PAUSED ⇄ SLEEPING → DRAINING → CLOSED; any → DEAD. A request that arrives while PAUSED
    or SLEEPING is queued, while DRAINING it gets an ``abort`` output, afterwards it is refused.
    """

    RUNNING = 0
    PAUSED = 1
    SLEEPING = 2
    DRAINING = 3
    CLOSED = 4
    DEAD = 5


class Capabilities(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a backend can do; a client that asks for more gets `UnsupportedOperation`.

    Args:
        max_model_len: tokens per request, prompt and reply together.
        max_num_seqs: requests that run at once; more wait.
        accepts: the forms in which a prompt may come.
        sleep_levels: levels that can be slept at, of 1 and 2; level 0 (no scheduling) every core
            can. 1 keeps a copy of the weights in RAM and drops the KV cache, 2 drops all.
        gives_tokens: outputs have ``new_token_ids``.
        gives_text: outputs have ``text``, and the backend itself ends a reply at stop strings.
        prefix_cache: `reset_prefix_cache` is understood.
        profiler: `profile` is understood.
        dummy_batch: `execute_dummy_batch` is understood.
        utilities: names of further calls, of this backend alone.
        vocab_size: token ids are below it; None, not known.
    """

    max_model_len: int
    max_num_seqs: int = 1
    accepts: frozenset[PromptForm] = frozenset({"text"})
    sleep_levels: tuple[int, ...] = ()
    gives_tokens: bool = False
    gives_text: bool = True
    prefix_cache: bool = False
    profiler: bool = False
    dummy_batch: bool = False
    utilities: tuple[str, ...] = ()
    vocab_size: int | None = None


class EngineCoreRequest(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """One request. Exactly one of ``prompt_token_ids``, ``prompt`` and ``messages`` is given.

    Args:
        request_id: unique among the unfinished requests of a core, not empty.
        prompt_token_ids: the prompt as token ids, at least one.
        prompt: the prompt as text, not empty.
        messages: a chat: objects with ``role`` and ``content``, at least one.
        sampling_params: how tokens are chosen and when they end.
        arrival_time: monotonic seconds; 0, the moment the core gets it.
        priority: higher goes first, as in the settings; see `SimpleScheduler` for its worth in seconds.
        eos_token_id: the model's end of sequence; None, the backend knows it.
        cache_salt: requests share cached prefixes only with those of the same salt.
        trace_headers: W3C trace context, for a backend that reports traces.

    Raises:
        InvalidRequest: a field is wrong; ``param`` names it. It is a ValueError too.
    """

    request_id: str
    prompt_token_ids: list[int] | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    sampling_params: SamplingParams = SamplingParams()
    arrival_time: float = 0.0
    priority: int = 0
    eos_token_id: int | None = None
    cache_salt: str | None = None
    trace_headers: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if not _is(self.request_id, str) or not self.request_id:
            _refuse("request_id", "must be a string, not empty")
        given = [name for name in _PROMPTS if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            _refuse("prompt", f"one of {', '.join(_PROMPTS)} must be given, got {got}")
        (form,) = given
        if not _is(getattr(self, form), str if form == "prompt" else list):
            _refuse(form, f"must be a {'string' if form == 'prompt' else 'list'}")
        if not getattr(self, form):
            _refuse(form, "is empty")
        if self.prompt_token_ids is not None:
            for token in self.prompt_token_ids:
                if type(token) is not int or not 0 <= token < _NUMBERS:
                    _refuse("prompt_token_ids", f"must hold token ids, got {token!r}")
        if self.messages is not None:
            for number, message in enumerate(self.messages):
                if not _is(message, dict) or not _is(message.get("role"), str):
                    _refuse(f"messages[{number}]", "must be an object with a role")
        if not _is(self.sampling_params, SamplingParams):
            _refuse("sampling_params", "must be SamplingParams")
        if type(self.priority) is not int or not -_NUMBERS < self.priority < _NUMBERS:
            _refuse("priority", f"must be a whole number of 31 bits, got {self.priority!r}")

    @property
    def form(self) -> PromptForm:
        """The form in which the prompt came."""
        if self.prompt_token_ids is not None:
            return "tokens"
        return "text" if self.prompt is not None else "messages"


_NUMBERS = 2**31
_PROMPTS = ("prompt_token_ids", "prompt", "messages")


def _is(value: Any, kind: type) -> bool:
    """A constructor of msgspec checks no types; only its decoder does."""
    return isinstance(value, kind)


def _refuse(param: str, why: str) -> None:
    raise InvalidRequest(f"{param}: {why}", param=param)


class EngineCoreOutput(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """What one request gained. The one with ``finish_reason`` is its last, and there is exactly one.

    Args:
        request_id: whose.
        new_token_ids: in order, since the request's last output; the token that ended it is among them.
        text: the same as text, where `Capabilities.gives_text`. Held-back characters come later, so it
            need not match ``new_token_ids`` one by one; all texts joined are the reply's text.
        finish_reason: None while the request goes on.
        stop_reason: the stop string or stop token that ended it; None for the end of sequence.
        error: with ``FinishReason.ERROR``, why.
        logprobs: log-probability of each of ``new_token_ids``, if asked for and known.
        num_prompt_tokens: on the last output where it is known, else 0.
        num_output_tokens: same.
        num_cached_tokens: tokens of the prompt that came from the prefix cache; same.
    """

    request_id: str
    new_token_ids: list[int] = []
    text: str = ""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: Failure | None = None
    logprobs: list[float] | None = None
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0

    @property
    def finished(self) -> bool:
        """True for the last output of its request."""
        return self.finish_reason is not None


class EngineCoreOutputs(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The outputs of one step; often empty in process, never sent empty without a reason.

    Args:
        outputs: at most one per request.
        seq: 1, 2, … per core, of the batches that have outputs. A gap: batches in between were folded into
            this one for a slow reader, or their outputs were of requests that had ended.
        timestamp: when the step ended, monotonic seconds.
        state: the core's state after the step; clients keep it as `is_sleeping`'s cheap answer.
        stats: every second or so with ``log_stats``, see `EngineCore.get_stats`; else None.
    """

    outputs: list[EngineCoreOutput] = []
    seq: int = 0
    timestamp: float = 0.0
    state: CoreState = CoreState.RUNNING
    stats: dict[str, float] | None = None

    @property
    def finished_requests(self) -> set[str]:
        """Ids of the requests that ended with this step."""
        return {output.request_id for output in self.outputs if output.finish_reason is not None}
