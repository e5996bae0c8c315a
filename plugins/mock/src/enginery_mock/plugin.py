"""The mock engine as a plugin: hooks, and nothing else.

Knows: how a variant becomes the mock server's command line, and what its errors mean. Does not know:
how the server works. Only sleeping, waking and asking whether it sleeps talk to a running engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from signal import SIGTERM
from typing import Any

from enginery import (
    API_VERSION,
    AuthenticationFailed,
    Backend,
    BadEngineReply,
    Command,
    ContextLengthExceeded,
    Endpoint,
    EngineBusy,
    EngineLoading,
    EngineRequest,
    EngineryError,
    EngineUnreachable,
    Health,
    Memory,
    RunningEngine,
    StopPlan,
    Variant,
    hookimpl,
)
from enginery_mock.flags import API_KEY_VARIABLE, write
from enginery_mock.options import MockOptions, options_of
from enginery_mock.tokens import request_tokens

__all__ = ["MockPlugin"]

RETRY_AFTER = 1.0
DEFAULT_CONTEXT = 8192
CORE_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/models")


class MockPlugin:
    """The engine_type ``mock``."""

    API_VERSION = API_VERSION

    @hookimpl
    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """The mock server, in the same Python as we; the key goes into its environment."""
        if options_of(variant.options).in_process:
            return None
        return Command(
            # -P: a json.py in the working directory is not ours
            argv=(sys.executable, "-P", "-m", "enginery_mock.server", *_flags(variant, endpoint)),
            env={} if endpoint.api_key is None else {API_KEY_VARIABLE: endpoint.api_key},
            ready_hint=r"^enginery-mock: ready",
            stop_plan=StopPlan(
                signals=((int(SIGTERM), 2.0),), kill_after=2.0
            ),  # it leaves at once, or never
            log_level="info",
        )

    @hookimpl
    def create_backend(self, variant: Variant) -> Backend:
        """A `MockExecutor` under our own batching."""
        from enginery.enginecore.mock import create_backend

        options = options_of(variant.options)
        return create_backend(
            max_batch_size=variant.parallel,
            max_model_len=variant.context_length or DEFAULT_CONTEXT,
            seed=options.seed,
            step_ms=options.itl_ms,
        )

    @hookimpl
    def get_supported_endpoints(self, variant: Variant) -> Sequence[str]:
        """The inference routes, and those that count tokens."""
        if options_of(variant.options).in_process:
            return (*CORE_ENDPOINTS, "/tokenize", "/detokenize")
        return (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/v1/embeddings",
            "/v1/rerank",
            "/v1/models",
            "/v1/chat/completions/input_tokens",
            "/v1/messages/count_tokens",
            "/tokenize",
        )

    @hookimpl
    def estimate_tokens(self, request: EngineRequest, variant: Variant) -> int | None:
        """Exact: the server counts with the same function."""
        if options_of(variant.options).in_process:
            return None  # its tokenizer is another: the default's bounds from bytes hold
        return request_tokens(request.path, request.body)

    @hookimpl
    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        """Too long with its numbers, loading, busy, and a key that is not ours."""
        try:
            error = json.loads(body)["error"]
            message, kind, code = error["message"], error["type"], error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if kind == "exceed_context_size_error":
            return ContextLengthExceeded(
                message,
                prompt_tokens=error.get("n_prompt_tokens"),
                context_length=error.get("n_ctx"),
            )
        if status == 503 and kind == "unavailable_error":
            return EngineLoading("the mock engine is still loading", retry_after=RETRY_AFTER)
        if code == EngineBusy.code:
            return EngineBusy(message, retry_after=RETRY_AFTER)
        if code == AuthenticationFailed.code:
            return AuthenticationFailed("the mock engine refuses our key: somebody else started it")
        return None

    @hookimpl
    def variant_options(self) -> type[MockOptions]:
        """See `MockOptions`."""
        return MockOptions

    @hookimpl
    def estimate_memory(self, variant: Variant) -> Memory | None:
        """What the options pretend; None when they say nothing."""
        options = options_of(variant.options)
        return (
            None if options.memory is None else Memory(options.memory, options.memory_asleep or {})
        )

    @hookimpl
    def sleep_levels(self, variant: Variant) -> Sequence[int]:
        """Those of the options; in process, all."""
        options = options_of(variant.options)
        return (0, 1, 2) if options.in_process else options.sleep_levels

    @hookimpl
    def demo_variant(self) -> Mapping[str, Any]:
        """Two slots, at the pace of a small model on a laptop."""
        return {
            "context_length": 8192,
            "parallel": 2,
            "options": {"ttft_ms": 150, "itl_ms": 25, "load_ms": 500},
        }

    # -- I/O -----------------------------------------------------------------------------------

    @hookimpl
    async def check_health(self, engine: RunningEngine) -> Health | None:
        """Asleep when it says so; in all else the default check is right.

        ``/health`` says ok of a sleeping engine too, as vLLM's does.
        """
        options = options_of(engine.variant.options)
        if options.in_process or not options.sleep_levels:
            return None
        try:
            reply = await engine.get("/is_sleeping")
            asleep = reply.status == 200 and reply.json()["is_sleeping"] is True
        except (EngineUnreachable, ValueError, KeyError, TypeError):
            return None
        return Health("asleep") if asleep else None

    @hookimpl
    async def sleep(self, engine: RunningEngine, level: int) -> None:
        """Returns when the memory is back; what runs ends first."""
        await self._tell(engine, f"/sleep?level={level}&mode=wait")

    @hookimpl
    async def wake_up(self, engine: RunningEngine) -> None:
        """Returns when it serves again."""
        await self._tell(engine, "/wake_up")

    async def _tell(self, engine: RunningEngine, path: str) -> None:
        reply = await engine.post(path, {})
        if reply.status != 200:
            said = f"POST {path} was answered with HTTP {reply.status}"
            raise self.parse_error(reply.status, reply.body) or BadEngineReply(said)


def _flags(variant: Variant, endpoint: Endpoint) -> Iterator[str]:
    if endpoint.unix_path is not None:
        yield from ("--uds", endpoint.unix_path)
    else:
        yield from ("--host", endpoint.host, "--port", str(endpoint.port))
    yield from ("--model", variant.model, "--slots", str(variant.parallel))
    if variant.context_length is not None:
        yield from ("--context-length", str(variant.context_length))
    options = options_of(variant.options)
    for name, field in MockOptions.model_fields.items():
        value = getattr(options, name)
        if value == field.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        yield from (flag,) if value is True else (flag, write(value))
