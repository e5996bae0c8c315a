"""The hooks: what Enginery asks about vLLM, answered by the modules beside this one.

Knows: which module answers which hook. Does not know: the answers. One object per process; it remembers which ignored
fields it has already warned about, and through `Sleeping` whose weights are gone.

In process most answers are the framework's own: vLLM runs behind the framework's server there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pydantic

from enginery import (
    Backend,
    Command,
    Endpoint,
    EngineRequest,
    EngineryError,
    Health,
    RunningEngine,
    TokenEstimate,
    Variant,
    hookimpl,
)
from enginery_vllm.command import build_command
from enginery_vllm.endpoints import endpoints_of
from enginery_vllm.errors import parse_error
from enginery_vllm.health import check_health
from enginery_vllm.options import VllmOptions, options_of
from enginery_vllm.program import check_own_python, find_python
from enginery_vllm.requests import INSTEAD, adapt
from enginery_vllm.sleeping import Sleeping, levels_of
from enginery_vllm.tokens import count_tokens, estimate_tokens

__all__ = ["API_VERSION", "VllmPlugin"]

API_VERSION = (1, 0)

MOST_WARNINGS = 200
"""Of one process: names of fields come from clients, who could send new ones for ever."""

log = logging.getLogger("enginery.vllm")


class VllmPlugin:
    """vLLM's OpenAI server as an engine, or vLLM in process: engine_type ``vllm``."""

    API_VERSION = API_VERSION

    def __init__(self) -> None:
        self._warned: set[tuple[str, str]] = set()
        self._sleeping = Sleeping()

    @hookimpl
    def variant_options(self) -> type[pydantic.BaseModel]:
        """See `VllmOptions`."""
        return VllmOptions

    @hookimpl
    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """A server of vLLM's own; none in process."""
        if options_of(variant.options).in_process:
            if variant.binary is None:
                check_own_python(variant)
            return None
        return build_command(variant, endpoint, find_python(variant))

    @hookimpl
    def create_backend(self, variant: Variant) -> Backend:
        """An engine of vLLM's in this process."""
        from enginery_vllm.backend import VllmBackend

        return VllmBackend(variant)

    @hookimpl
    def get_supported_endpoints(self, variant: Variant) -> Sequence[str]:
        """By the options ``in_process`` and ``runner``, and by features."""
        return endpoints_of(variant)

    @hookimpl
    def estimate_tokens(self, request: EngineRequest) -> TokenEstimate | None:
        """The framework's bounds where they hold for vLLM's tokenizers, else none."""
        return estimate_tokens(request)

    @hookimpl
    def transform_request(self, request: EngineRequest, variant: Variant) -> dict[str, Any] | None:
        """Translate what other servers call otherwise, warn of what vLLM ignores, else leave the bytes alone."""
        if options_of(variant.options).in_process:
            return None
        body, ignored = adapt(request)
        for field in ignored:
            if (variant.model, field) not in self._warned and len(self._warned) < MOST_WARNINGS:
                self._warned.add((variant.model, field))
                instead = f"; it has {INSTEAD[field]}" if field in INSTEAD else ""
                log.warning(
                    "%s: vLLM ignores %r (in %s)%s",
                    variant.model,
                    field[:80],
                    request.path,
                    instead,
                )
        return body

    @hookimpl
    def parse_error(self, status: int, body: bytes) -> EngineryError | None:
        """Overflow with its numbers, busy, a dead engine core, and mistakes by their field."""
        return parse_error(status, body)

    @hookimpl
    def sleep_levels(self, variant: Variant) -> Sequence[int] | None:
        """By the option ``sleep``; in process, what the backend says."""
        return None if options_of(variant.options).in_process else levels_of(variant)

    @hookimpl
    async def check_health(self, engine: RunningEngine) -> Health | None:
        """Also whether it sleeps, and that a dead engine core is no loading model."""
        if options_of(engine.variant.options).in_process:
            return None
        return await check_health(engine)

    @hookimpl
    async def count_tokens(self, request: EngineRequest, engine: RunningEngine) -> int | None:
        """As vLLM itself counts them."""
        return await count_tokens(request, engine)

    @hookimpl
    async def sleep(self, engine: RunningEngine, level: int) -> None:
        """See `Sleeping`."""
        await self._sleeping.sleep(engine, level)

    @hookimpl
    async def wake_up(self, engine: RunningEngine) -> None:
        """See `Sleeping`."""
        await self._sleeping.wake_up(engine)
