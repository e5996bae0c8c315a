"""`StreamingEngine`: one source of tokens, three ways of getting them.

Knows: prompts, parameters and what each way promises. Does not know: where tokens come from (`source`) or how readers
wait (`iterator`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

from enginery.errors import EngineClosedError, InvalidRequest
from enginery.streaming.config import Prompt, StreamingConfig, request_for
from enginery.streaming.feed import Delivery, TokenFeed
from enginery.streaming.iterator import (
    TextBatchIterator,
    TokenStreamIterator,
    refuse_in_a_loop,
)
from enginery.streaming.source import TokenSource
from enginery.streaming.stats import StreamStats
from enginery.streaming.tokens import StreamCallback
from enginery.threads import in_daemon_thread

__all__ = ["StreamingEngine"]


class StreamingEngine:
    """Streams of one source, any number at once, from any thread and loop.

    In all three ways ``prompt`` is a text, which is completed, or the messages of a chat; with ``system_prompt`` a text
    is a chat, too. ``temperature`` and ``max_tokens`` may be None: the engine's own. Further ``sampling`` parameters are
    those of `SamplingParams`; over HTTP whatever the engine takes.

    Args:
        source: `core_source` or `http_source`, or one's own; closed by `shutdown`.
        config: how tokens are handed over.
    """

    def __init__(self, source: TokenSource, config: StreamingConfig | None = None) -> None:
        self.config = config or StreamingConfig()
        self._source = source
        self._is_shut = False
        self._stats = StreamStats(time.monotonic)

    @property
    def is_available(self) -> bool:
        """False after `shutdown`, and once the engine is known to be gone."""
        return not self._is_shut and self._source.is_available

    # -- the three ways --------------------------------------------------------------------------

    def generate_stream(
        self,
        prompt: Prompt,
        temperature: float | None = 0.7,
        max_tokens: int | None = 1024,
        system_prompt: str | None = None,
        **sampling: Any,
    ) -> TokenStreamIterator:
        """The tokens as they come, for ``for`` and ``async for``. Returns at once.

        Raises `InvalidRequest` for a wrong parameter and `EngineClosedError` after `shutdown`; what only the engine can
        find wrong comes out of the iterator, after the tokens that came before it.
        """
        config = self.config
        feed = TokenFeed(
            config.buffer_size,
            config.on_full,
            Delivery(config.min_tokens_per_yield, flush_s=config.flush_interval_ms / 1000),
            on_end=self._stats.ended,
        )
        self._start(feed, prompt, system_prompt, temperature, max_tokens, sampling)
        return TokenStreamIterator(feed=feed)

    def generate_buffered(
        self,
        prompt: Prompt,
        buffer_tokens: int = 10,
        temperature: float | None = 0.7,
        max_tokens: int | None = 1024,
        system_prompt: str | None = None,
        **sampling: Any,
    ) -> TextBatchIterator:
        """The text in batches of ``buffer_tokens`` tokens, for ``for`` and ``async for``; else as `generate_stream`.

        The last batch may be short, and so is one whose first token has waited for ``flush_interval_ms``. Tokens that
        the engine gives together are not torn apart.
        """
        if type(buffer_tokens) is not int or buffer_tokens < 1:
            raise InvalidRequest(
                f"buffer_tokens must be a whole number from 1, got {buffer_tokens!r}",
                param="buffer_tokens",
            )
        config = self.config
        feed = TokenFeed(
            max(config.buffer_size, buffer_tokens),
            config.on_full,
            Delivery(buffer_tokens, exact=True, flush_s=config.flush_interval_ms / 1000),
            on_end=self._stats.ended,
        )
        self._start(feed, prompt, system_prompt, temperature, max_tokens, sampling)
        return TextBatchIterator(feed)

    def generate_with_callback(
        self,
        prompt: Prompt,
        callback: StreamCallback,
        temperature: float | None = 0.7,
        max_tokens: int | None = 1024,
        system_prompt: str | None = None,
        **sampling: Any,
    ) -> str:
        """Call ``callback`` with each token, in this thread, and return the whole text. Blocks.

        An async callback is awaited before the next token. What a callback raises aborts the request and is raised
        here. Raises RuntimeError inside a running loop, and else as reading `generate_stream` does.
        """
        refuse_in_a_loop()
        stream = self.generate_stream(prompt, temperature, max_tokens, system_prompt, **sampling)
        with stream, asyncio.Runner() as runner:
            for token in stream:
                reason = token.finish_reason
                answer = callback(token.text, token.token_id, reason is not None, reason)
                if inspect.isawaitable(answer):
                    runner.run(_awaited(answer))
        return stream.get_full_text()

    async def generate_with_callback_async(
        self,
        prompt: Prompt,
        callback: StreamCallback,
        temperature: float | None = 0.7,
        max_tokens: int | None = 1024,
        system_prompt: str | None = None,
        **sampling: Any,
    ) -> str:
        """`generate_with_callback` in a task; its cancelling aborts the request."""
        stream = self.generate_stream(prompt, temperature, max_tokens, system_prompt, **sampling)
        async with stream:
            async for token in stream:
                reason = token.finish_reason
                answer = callback(token.text, token.token_id, reason is not None, reason)
                if inspect.isawaitable(answer):
                    await answer
        return stream.get_full_text()

    # -- the rest ----------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, float | None]:
        """What the streams came to; None where nothing was measured yet. Times are seconds.

        ``requests``, of them ``active``, ``aborted`` (also those that nobody read to the end) and ``failed``; ``tokens``
        of those that ended, and ``tokens_per_second`` while at least one was live; ``ttft_p50``, ``ttft_p90``,
        ``ttft_p99`` from asking to the first token, and the same of ``itl``, between tokens, over the latest ones.
        """
        return self._stats.read()

    def shutdown(self) -> None:
        """Abort what is unfinished and close the source; the engine itself runs on. Idempotent.

        Readers get what is buffered, then the end, with ``finish_reason`` ``abort``.
        """
        self._is_shut = True
        self._source.close()

    async def shutdown_async(self) -> None:
        """`shutdown` without blocking the event loop."""
        self._is_shut = True
        await in_daemon_thread(self._source.close, "enginery-streaming-shutdown")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown_async()

    def _start(
        self,
        feed: TokenFeed,
        prompt: Prompt,
        system_prompt: str | None,
        temperature: float | None,
        max_tokens: int | None,
        sampling: dict[str, Any],
    ) -> None:
        if self._is_shut:
            raise EngineClosedError("the streaming engine is shut down")
        config = self.config
        given = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "skip_special_tokens": config.skip_special_tokens,
            "spaces_between_special_tokens": config.spaces_between_special_tokens,
            **sampling,
        }
        request = request_for(prompt, system_prompt, config.model, given)
        self._stats.began()
        try:
            self._source.start(request, feed)
        except BaseException:
            self._stats.withdrawn()
            raise


async def _awaited(answer: Awaitable[None]) -> None:
    await answer
