"""One way to drive every client, so that a test is written once for all of them."""

from __future__ import annotations

import inspect
from typing import Any, Self

from enginery.enginecore import (
    ClientConfig,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreRequest,
    SamplingParams,
    create_client,
)

__all__ = ["DRIVERS", "Driver", "mock_config", "request"]

DRIVERS = ["inproc", "inproc_async", "sync_mp", "async_mp"]
"""The clients' names; the first has both halves."""

PATIENCE = 30.0
"""Seconds for what takes milliseconds, on a machine that does something else."""


def request(name: str, tokens: int = 6, prompt: int = 5, **params: Any) -> EngineCoreRequest:
    sampling = SamplingParams(max_tokens=tokens, **{"ignore_eos": True, **params})
    return EngineCoreRequest(name, list(range(1, prompt + 1)), sampling_params=sampling)


def mock_config(backend: str | None = None, **options: Any) -> ClientConfig:
    named = {} if backend is None else {"backend": backend}
    return ClientConfig(**named, options=options, max_batch_size=8, timeout_s=PATIENCE)


class Driver:
    """``await driver.do("get_output")`` calls the client's sync or async method."""

    def __init__(self, kind: str, config: ClientConfig | None = None) -> None:
        self.kind = kind
        self.is_async = kind in {"inproc_async", "async_mp"}
        self.client: EngineCoreClient = create_client(
            kind.removesuffix("_async") if kind.startswith("inproc") else kind,
            config or mock_config(),
        )

    async def do(self, method: str, *args: Any, **named: Any) -> Any:
        if not self.is_async:
            return getattr(self.client, method)(*args, **named)
        result = getattr(self.client, f"{method}_async")(*args, **named)
        assert inspect.isawaitable(result)
        return await result

    async def __aenter__(self) -> Self:
        if self.is_async:
            await self.client.__aenter__()
        else:
            self.client.__enter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.do("shutdown")

    async def outputs(self) -> list[EngineCoreOutput]:
        """Until every request has ended."""
        outputs: list[EngineCoreOutput] = []
        while self.client.unfinished:
            outputs += (await self.do("get_output", PATIENCE)).outputs
        return outputs

    async def tokens(self, *requests: EngineCoreRequest) -> dict[str, list[int]]:
        """Run these, and what they said."""
        for each in requests:
            await self.do("add_request", each)
        said: dict[str, list[int]] = {each.request_id: [] for each in requests}
        for output in await self.outputs():
            said[output.request_id] += output.new_token_ids
        return said
