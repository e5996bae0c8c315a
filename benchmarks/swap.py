"""What our swap adds to the bare one: stop the old engine, start the new one, wait for a first token.

The bare sequence is what nobody can undercut: the same command lines, SIGTERM, a wait for the exit, a
spawn, a look every half millisecond, one streamed request. Ours is `ensure_engine` and the same request.
Both run in turn, in random order, so that the machine's mood hits both.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import aiohttp

from enginery import Command, EngineManager, PluginRegistry, Settings, Variant
from enginery.engine.endpoints import free_endpoint
from enginery.engine.transport import auth_headers, open_session
from enginery.values import Endpoint

ROUNDS = 20
LOOK_EVERY = 0.0005
QUESTION = {
    "messages": [{"role": "user", "content": "List objects are"}],
    "max_tokens": 4,
    "stream": True,
}


class Bare:
    """Two variants, swapped by hand."""

    def __init__(self, registry: PluginRegistry, session: aiohttp.ClientSession) -> None:
        self.registry = registry
        self.session = session
        self.process: subprocess.Popen[bytes] | None = None

    async def swap_to(self, variant: Variant) -> None:
        """Stop what runs, start ``variant``, return at its first token."""
        self.stop()
        endpoint = free_endpoint()
        hooks = self.registry.hooks(variant.engine_type)
        command = hooks.build_command(variant, endpoint)
        assert command is not None
        self.process = subprocess.Popen(  # noqa: ASYNC220  # bare means bare
            list(command.argv),
            env={**os.environ, **command.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not _healthy(endpoint, command):
            time.sleep(LOOK_EVERY)  # noqa: ASYNC251  # nothing else runs
        async with self.session.post(
            endpoint.base_url + "/v1/chat/completions",
            json={**QUESTION, "model": variant.model},
            headers=auth_headers(endpoint),
        ) as response:
            await _first_token(response)

    def stop(self) -> None:
        """SIGTERM and wait."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()
            self.process = None


def _healthy(endpoint: Endpoint, command: Command) -> bool:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=1.0)
    try:
        connection.request("GET", command.health_path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


async def _first_token(response: aiohttp.ClientResponse) -> None:
    assert response.status == 200, await response.text()
    seen = b""
    async for data in response.content.iter_any():
        seen += data
        if seen.count(b'"content":"') + seen.count(b'"content": "') >= 1:
            return
    raise AssertionError(f"no token in {seen!r}")


async def _ours(manager: EngineManager, session: aiohttp.ClientSession, variant: Variant) -> None:
    client = await manager.ensure_engine(variant.model, variant)
    async with await client.forward_request(session, "", QUESTION) as response:
        await _first_token(response)


async def _compare(engine_type: str, config: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Milliseconds of each bare swap and of each of ours, between two variants of one engine."""
    settings = Settings(defaults={"engine": engine_type})
    async with EngineManager(settings) as manager, open_session() as session:
        pair = [manager.catalog.register(f"bench-{i}", config, engine_type) for i in (0, 1)]
        bare = Bare(manager.registry, session)
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        try:
            for round_ in range(ROUNDS + 1):
                variant = pair[round_ % 2]
                for name in random.sample(["bare", "ours"], 2):
                    began = time.perf_counter()
                    await (
                        bare.swap_to(variant)
                        if name == "bare"
                        else _ours(manager, session, variant)
                    )
                    if round_:  # the first of each stops nothing
                        times[name].append(1000 * (time.perf_counter() - began))
        finally:
            bare.stop()
    return times["bare"], times["ours"]


def _row(name: str, times: list[float]) -> str:
    return f"| {name} | {median(times):.1f} | {min(times):.1f} | {max(times):.1f} |"


async def main() -> bool:
    """Print both tables; True when both gates hold."""
    registry = PluginRegistry()
    held = True
    for engine_type, extra, gate in (
        ("llama.cpp", {}, "added"),
        ("mock", {"load_ms": 1000}, "ratio"),
    ):
        demo = dict(registry.hooks(engine_type).demo_variant() or {})
        demo["options"] = {**demo.get("options", {}), **extra}
        bare, ours = await _compare(engine_type, demo)
        added, ratio = median(ours) - median(bare), median(ours) / median(bare)
        ok = added <= 40.0 if gate == "added" else ratio <= 1.1
        held = held and ok
        goal = "≤ 40 ms more" if gate == "added" else "≤ 1.1 ×"
        print(f"\nswap, {engine_type} {extra or ''} ({ROUNDS} each, ms)")
        print("| | median | min | max |\n|---|---|---|---|")
        print(_row("bare: SIGTERM, start, first token", bare))
        print(_row("ours: ensure_engine, first token", ours))
        print(
            f"overhead {added:+.1f} ms, {ratio:.2f} ×; gate {goal}: {'holds' if ok else 'MISSED'}"
        )
    return held


if __name__ == "__main__":
    asyncio.run(main())
