"""The options of a mock variant, as they stand in the settings file.

Knows: names, units and bounds. Does not know: the command line that they become (`plugin`) or what
they do (`sending`, `slots`, `server`). Options that every engine has belong to the variant: slots are its
``parallel``, the context is its ``context_length``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

__all__ = ["MockOptions", "options_of"]

HOUR_MS = 3_600_000


def _on_gpu0(value: Any) -> Any:
    """A bare size is one of the first GPU."""
    return value if value is None or isinstance(value, Mapping) else {"gpu0": value}


Device = Annotated[str, Field(pattern=r"^[\w.:-]+$")]
Sizes = Annotated[dict[Device, ByteSize], BeforeValidator(_on_gpu0)]
"""Bytes on each device, as numbers or like ``8GiB``."""


class MockOptions(BaseModel):
    """How the mock engine behaves: what it says, how fast, and in which way it fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Chooses the replies: the same seed and prompt give the same tokens.",
    )
    ttft_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="Time to first token in milliseconds, counted from when a slot is free.",
    )
    itl_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="Inter-token latency in milliseconds: the pause before each further token.",
    )
    max_queue: int | None = Field(
        default=None,
        ge=0,
        description="How many requests may wait for a slot; one more is refused with 503. "
        "None: any number.",
    )
    load_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="How long it loads, in milliseconds. It listens at once and answers 503 till then.",
    )
    load_exit_code: int | None = Field(
        default=None,
        ge=0,
        le=255,
        description="Fails to load: prints a reason at the end of `load_ms` and exits with this code.",
    )
    hang_in_load: bool = Field(
        default=False,
        description="After `load_ms` it says nothing more and answers 503 for ever; SIGTERM ends it.",
    )
    ignore_sigterm: bool = Field(
        default=False,
        description="Prints a line on SIGTERM and goes on; only SIGKILL ends it.",
    )
    never_die: bool = Field(
        default=False,
        description="Ignores, without a word, every signal that can be ignored; only SIGKILL ends it.",
    )
    die_at_frame: int | None = Field(
        default=None,
        ge=1,
        description="The process dies in the middle of the first stream that has had this many frames, "
        "as if it were killed: no last words, no exit code 0.",
    )
    crash_after_tokens: int | None = Field(
        default=None,
        ge=1,
        description="The process dies of SIGSEGV when it has generated this many tokens, over all "
        "requests, streamed or not.",
    )
    flood_log: Annotated[ByteSize, Field(ge=1)] | Literal["max"] | None = Field(
        default=None,
        description="Bytes that it logs each second, on stdout and stderr in turn, lines of 200 kB and "
        "what is no text among them; `max` is as fast as it can. Each request logs a line too, so that, "
        "like a real engine, it stands still when nobody reads.",
    )
    fork_grandchild: Literal["pipes", "setsid"] | None = Field(
        default=None,
        description="Leaves a process behind that sleeps for ten minutes and whose id it prints. "
        "`pipes`: it keeps stdout and stderr open. `setsid`: it is forked twice, has a session of its own "
        "and ignores SIGTERM.",
    )
    lie_on_health: Literal["loading", "stuck"] | None = Field(
        default=None,
        description="`/health` says ok although requests fail. `loading`: they get 503 while it loads. "
        "`stuck`: after `stuck_after_requests` they get a slot and never a byte.",
    )
    stuck_after_requests: int = Field(
        default=0,
        ge=0,
        description="With `lie_on_health: stuck`: how many requests are answered before.",
    )
    hold_port: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="When it ends otherwise than by a kill, a detached process keeps its port for so many "
        "seconds: connections are taken and never answered.",
    )
    memory: Sizes | None = Field(
        default=None,
        description="Memory that it pretends to use from when it listens, `8GiB` or `{gpu0: 8GiB}`. It is "
        "its estimate, and what the directory in ENGINERY_MOCK_DEVICES says.",
    )
    memory_asleep: Sizes | None = Field(
        default=None,
        description="The same while it sleeps at level 1 or 2. None: nothing.",
    )
    memory_late_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="How long after its end, however it ends, its pretended memory is still in use, in "
        "milliseconds from when somebody first looks.",
    )
    sleep_levels: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        default=(),
        description="Levels that it can sleep at, with vLLM's routes; level 0 keeps its memory. Empty: it "
        "has no such routes.",
    )
    in_process: bool = Field(
        default=False,
        description="Runs `MockExecutor` in an engine core behind the framework's own server, instead of "
        "the mock's: words out of nothing, real batching, sleep at levels 1 and 2. Of the other options "
        "`seed`, `itl_ms` (a step) and `memory` count there.",
    )
    sleep_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="How long it takes to fall asleep, in milliseconds; memory is back at the end.",
    )
    wake_ms: float = Field(
        default=0.0,
        ge=0,
        le=HOUR_MS,
        allow_inf_nan=False,
        description="How long it takes to wake up, in milliseconds; memory is in use from the beginning.",
    )


def options_of(options: Any) -> MockOptions:
    """The typed options of a variant that may carry them as a plain mapping.

    Raises:
        pydantic.ValidationError: an unknown option or a value out of bounds.
        TypeError: neither options nor a mapping.
    """
    if isinstance(options, MockOptions):
        return options
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping, got {type(options).__name__}")
    return MockOptions.model_validate(dict(options))
