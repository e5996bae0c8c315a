"""The `Backend` protocol: a Python object that runs a model, driven by one loop.

Knows: the calls that the engine-core loop makes, and what a backend must answer. Does not know:
how requests are run, processes, plugins or HTTP. The shape follows what vLLM's v1 core and llama.cpp
have in common: both schedule by themselves, so the seam is "add, step, collect" and not "execute this
batch". Two backends are ours: `NativeBackend` schedules for a step-level `Executor`, and
`GeneratorBackend` is built around a function that yields text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from enginery.enginecore.messages import (
    Capabilities,
    EngineCoreOutput,
    EngineCoreRequest,
    PromptForm,
)

__all__ = ["Backend", "Capabilities", "PromptForm", "Tokenizer"]


class Backend(Protocol):
    """One loaded model. All calls come from one thread; only `step` may wait.

    The loop (`EngineCore`) stands in front: it refuses duplicate ids and forms that are not in
    ``capabilities.accepts``, holds requests back while paused, ends aborted requests itself, and drops
    outputs of requests that have ended. So a backend need not defend itself against these.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Constant once the backend exists."""
        ...

    def add_request(self, request: EngineCoreRequest) -> None:
        """Queue a request. Raises `InvalidRequest`, or any ValueError, for one it cannot run."""
        ...

    def abort_requests(self, ids: Sequence[str]) -> list[str]:
        """Stop these requests; unknown ids are ignored. Returns those that were unfinished.

        No output need follow: the loop has told the client already.
        """
        ...

    def step(self, timeout: float) -> list[EngineCoreOutput]:
        """Make progress and return new outputs; wait at most ``timeout`` seconds for some.

        At most one output per request. A failure of one request is an output with
        ``FinishReason.ERROR``; an exception means that the backend is lost, and the core dies of it.
        """
        ...

    def has_work(self) -> bool:
        """True while a request is unfinished, or an output is not yet collected."""
        ...

    def wake_fd(self) -> int | None:
        """A descriptor that is readable while outputs are there to collect; None: just call `step`.

        With one, work goes on elsewhere (threads) and the loop sleeps until it is readable. Without,
        `step` itself does the work, and the loop calls it as long as `has_work` is true.
        """
        ...

    def utility(self, method: str, args: Mapping[str, Any]) -> Any:
        """Any other call by name, with JSON values. Raises `UnsupportedOperation` for one it lacks.

        The loop makes these, if the capabilities list them:

        * ``sleep(level)``: free memory; running requests are none, or stand still and are computed
          again after waking up (`Capabilities.sleep_levels`),
        * ``wake_up(tags)``: tags are None (all) or some of ``"weights"`` and ``"kv_cache"``; returns
          True when all memory is resident,
        * ``reset_prefix_cache(reset_running_requests, reset_connector)``: returns False, and does
          nothing, while blocks are in use; with ``reset_running_requests`` they are freed first,
        * ``profile(is_start, prefix, max_iterations)``,
        * ``execute_dummy_batch()``: one step of one made-up sequence, without effect on any request,
        * ``get_stats()``: a dict of numbers; always asked, may be lacking,
        * ``check_health()``: raises if the backend cannot go on; always asked, may be lacking.
        """
        ...

    def shutdown(self) -> None:
        """Free everything. Idempotent; waits for running requests no longer than a second or two."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back; optional for our backends.

    ``decode`` must be stable: but for at most three U+FFFD at its end (an unfinished character), the
    text of some ids begins the text of those ids and more. Byte-level and SentencePiece tokenizers are.
    """

    def encode(self, text: str) -> Sequence[int]:
        """The token ids of a text."""
        ...

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        ...

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt of a chat, ending where the assistant's answer begins."""
        ...
