"""What an engine core and its clients cost: time for each step, tokens across processes, calls, death and start.

The model is the mock executor, which computes nothing, so all of the time is ours; the KV ledger, prefix hashing and
stop checks are on. Requests have 16 prompt tokens and 200 new ones. Kinds of clients take turns, and each number is
the median of the rounds. vLLM's own clients run beside ours, on an executor that computes nothing either, where
ENGINERY_VLLM_PYTHON names a Python that has vLLM, or ours has it; its step does more than ours.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from benchmarks.tables import spread, table
from enginery.enginecore import (
    AsyncMPClient,
    ClientConfig,
    EngineCoreRequest,
    InprocClient,
    SamplingParams,
    SyncMPClient,
)
from enginery.errors import EngineDeadError

__all__ = ["main"]

ROUNDS = 5
BATCHES = (1, 16, 64)
PROMPT, NEW = 16, 200
CALLS = 1000

STEP_US = {1: 15.0, 16: 60.0, 64: 200.0}
TOKENS_PER_S = {1: 40_000.0, 16: 300_000.0, 64: 500_000.0}
CALL_US, FIRST_MS, DEATH_MS, START_MS = 60.0, 2.0, 10.0, 300.0


def _config() -> ClientConfig:
    return ClientConfig(max_batch_size=64, max_tokens=8192, options={"text": False})


def _requests(batch: int, turn: int) -> list[EngineCoreRequest]:
    """New ids and, so that the prefix cache hashes and stores, new prompts."""
    params = SamplingParams(max_tokens=NEW, stop_token_ids=(32_000, 32_001), min_tokens=1)
    return [
        EngineCoreRequest(f"{turn}-{n}", [turn, n, *range(PROMPT - 2)], sampling_params=params)
        for n in range(batch)
    ]


def _inproc_step_us(client: InprocClient, batch: int, turn: int) -> float:
    """Microseconds for each step that decodes, adding and prefill left out."""
    for each in _requests(batch, turn):
        client.add_request(each)
    client.get_output()
    steps, began = 0, time.perf_counter()
    while client.unfinished:
        client.get_output()
        steps += 1
    return 1e6 * (time.perf_counter() - began) / steps


def _sync_rate(client: SyncMPClient, batch: int, turn: int) -> float:
    """Tokens a second from the first request's adding to the last token."""
    began, tokens = time.perf_counter(), 0
    for each in _requests(batch, turn):
        client.add_request(each)
    while client.unfinished:
        for output in client.get_output().outputs:
            tokens += len(output.new_token_ids)
    assert tokens == batch * NEW, tokens
    return tokens / (time.perf_counter() - began)


async def _async_rate(client: AsyncMPClient, batch: int, turn: int) -> float:
    began, tokens = time.perf_counter(), 0
    for each in _requests(batch, turn):
        await client.add_request_async(each)
    while client.unfinished:
        for output in (await client.get_output_async()).outputs:
            tokens += len(output.new_token_ids)
    assert tokens == batch * NEW, tokens
    return tokens / (time.perf_counter() - began)


def _first_token_ms(client: SyncMPClient, batch: int, turn: int) -> float:
    """From the first adding of so many requests to the first token of the last one that gets one."""
    began, waiting = time.perf_counter(), set()
    for each in _requests(batch, turn):
        waiting.add(client.add_request(each))
    while waiting:
        waiting -= {o.request_id for o in client.get_output().outputs if o.new_token_ids}
    took = 1000 * (time.perf_counter() - began)
    client.abort_requests([f"{turn}-{n}" for n in range(batch)])
    while client.unfinished:
        client.get_output()
    client.check_health()
    return took


def _call_us(client: SyncMPClient) -> float:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        client.is_sleeping()
        took.append(time.perf_counter() - began)
    return 1e6 * median(took)


async def _async_call_us(client: AsyncMPClient) -> float:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await client.is_sleeping_async()
        took.append(time.perf_counter() - began)
    return 1e6 * median(took)


def _start_and_death_ms() -> tuple[float, float]:
    """From the constructor's call to READY, and from SIGKILL to the error in `get_output`."""
    began = time.perf_counter()
    with SyncMPClient(_config()) as client:
        start = 1000 * (time.perf_counter() - began)
        os.kill(client.pid, signal.SIGKILL)
        began = time.perf_counter()
        try:
            client.get_output()
        except EngineDeadError:
            return start, 1000 * (time.perf_counter() - began)
    raise AssertionError("the killed core gave an output")


async def _rounds() -> dict[str, list[float]]:
    seen: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seen.setdefault(name, []).append(value)

    with InprocClient(_config()) as inproc, SyncMPClient(_config()) as sync:
        async with AsyncMPClient(_config()) as other:
            turns: list[tuple[str, Callable[[int, int], float | Awaitable[float]]]] = [
                ("step", lambda batch, turn: _inproc_step_us(inproc, batch, turn)),
                ("sync", lambda batch, turn: _sync_rate(sync, batch, turn)),
                ("async", lambda batch, turn: _async_rate(other, batch, turn)),
                ("first", lambda batch, turn: _first_token_ms(sync, batch, 1000 + turn)),
            ]
            for turn in range(ROUNDS + 1):
                for batch in BATCHES:
                    for name, measure in turns:
                        if name == "first" and batch < 64:
                            continue
                        value = measure(batch, turn * 100 + batch)
                        if not isinstance(value, float):
                            value = await value
                        if turn:  # the first round warms up
                            note(f"{name}-{batch}", value)
                if turn:
                    note("call", _call_us(sync))
                    note("async-call", await _async_call_us(other))
    for _ in range(ROUNDS):
        start, death = _start_and_death_ms()
        note("start", start)
        note("death", death)
    return seen


def _vllm() -> dict[str, list[float]]:
    """The same numbers of vLLM's clients; empty, with a word why, where it cannot be run."""
    python = os.environ.get("ENGINERY_VLLM_PYTHON")
    if python is None and importlib.util.find_spec("vllm") is not None:
        python = sys.executable
    if python is None:
        print(
            "\nvLLM's clients: NOT RUN: no vllm here, and ENGINERY_VLLM_PYTHON names no Python with it"
        )
        return {}
    script = Path(__file__).parent / "enginecore_vllm.py"
    done = subprocess.run([python, str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"\nvLLM's clients: NOT RUN: exit code {done.returncode}\n{done.stderr[-800:]}")
        return {}
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


async def main() -> bool:
    """Print the table; False when a goal is not met."""
    seen = await _rounds()
    theirs = _vllm()
    rows: list[tuple[str, ...]] = []
    held = True

    def row(what: str, name: str, goal: float, *, least: bool = False, digits: int = 1) -> None:
        nonlocal held
        middle = median(seen[name])
        good = middle >= goal if least else middle <= goal
        held &= good
        sign = "≥" if least else "≤"
        other = f"{median(theirs[name]):.{digits}f}" if name in theirs else "–"
        met = (f"{sign} {goal:g}", "yes" if good else "NO", other)
        rows.append((what, *spread(seen[name], digits), *met))

    for batch in BATCHES:
        row(f"inproc: overhead of a step, batch {batch} (µs)", f"step-{batch}", STEP_US[batch])
    for kind in ("sync", "async"):
        for batch in BATCHES:
            what = f"{kind}_mp: tokens a second, batch {batch}"
            row(what, f"{kind}-{batch}", TOKENS_PER_S[batch], least=True, digits=0)
    row("sync_mp: a call there and back (µs)", "call", CALL_US)
    row("async_mp: a call there and back (µs)", "async-call", CALL_US)
    row("sync_mp: 64 requests added, first token of the last (ms)", "first-64", FIRST_MS, digits=2)
    row("sync_mp: SIGKILL to EngineDeadError (ms)", "death", DEATH_MS)
    row("sync_mp: spawn to READY (ms)", "start", START_MS)
    heads = ("engine core, mock executor", "median", "min", "max", "goal", "met", "vLLM")
    table(f"engine cores ({ROUNDS} rounds)", heads, rows)
    return held


if __name__ == "__main__":
    asyncio.run(main())
