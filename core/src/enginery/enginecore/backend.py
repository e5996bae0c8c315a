"""The `Backend` protocol: a Python object that runs a model, driven by one loop.

Knows: the calls that the engine-core loop makes, and what a backend says of itself. Does not know:
requests' and outputs' layout (they come with the loop), processes, plugins or HTTP. The shape
follows what vLLM's v1 core and llama.cpp have in common: both schedule by themselves, so the seam is
"add, step, collect" and not "execute this batch".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["Backend", "Capabilities", "PromptForm"]

PromptForm = Literal["tokens", "text", "messages"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do; a client that asks for more gets `UnsupportedOperation`.

    Args:
        max_model_len: tokens per request, prompt and reply together.
        max_num_seqs: requests that run at once; more wait.
        accepts: the forms in which a prompt may come.
        sleep_levels: levels that can be slept at; empty, it cannot sleep.
    """

    max_model_len: int
    max_num_seqs: int = 1
    accepts: frozenset[PromptForm] = frozenset({"text"})
    sleep_levels: tuple[int, ...] = ()


class Backend(Protocol):
    """One loaded model. All calls come from one thread; only `step` may wait."""

    @property
    def capabilities(self) -> Capabilities:
        """Constant once the backend exists."""
        ...

    def add_request(self, request: Any) -> None:
        """Queue a request. Raises ValueError, naming the field, for one it cannot run."""
        ...

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """End these requests; unknown ids are ignored. Returns those that were running."""
        ...

    def step(self, timeout: float) -> list[Any]:
        """Make progress and return new outputs; wait at most ``timeout`` seconds for some."""
        ...

    def has_work(self) -> bool:
        """True while a request is unfinished."""
        ...

    def wake_fd(self) -> int | None:
        """A descriptor that becomes readable when outputs are there; None: call `step`."""
        ...

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """Any other call by name. Raises `UnsupportedOperation` for one it does not have."""
        ...

    def shutdown(self) -> None:
        """Free everything. Idempotent."""
        ...
