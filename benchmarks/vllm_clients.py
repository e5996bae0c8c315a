"""The same vLLM and the same tiny model, driven by vLLM's own clients and by ours: what the way to a token costs.

Three pairs: vLLM's `LLMEngine` in one process against our `InprocClient`; `LLMEngine` over a process of vLLM's own against
our `SyncMPClient`; `AsyncLLM` against our `AsyncMPClient`. Ours run `VllmBackend`, which is an `LLMEngine` in our child.
All of them give text and token ids. Requests have 16 prompt tokens and 100 new ones, greedy. Each kind runs in a program
of its own, one after the other in every round, so that a busy machine is busy for all.

Needs ENGINERY_VLLM_PYTHON: a Python with vLLM, and Enginery and its vLLM plugin beside it. vLLM on a CPU
runs its model in a worker process when it is not in one process, so its side has three processes where ours has two.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import spread, table

__all__ = ["main"]

ROUNDS, TURNS = 2, 6
BATCHES = (1, 8)
PROMPT, NEW, CONTEXT = 16, 100, 256
KINDS = ("LLMEngine", "inproc", "LLMEngine-mp", "sync_mp", "AsyncLLM", "async_mp")
OPTIONS = {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_gib": 0.25}
ROOT = Path(__file__).parents[1]

Run = Callable[[int, int], tuple[float, float]]
"""Batch and turn in; milliseconds to the last request's first token, and tokens a second, out."""

Driven = tuple[Run, Callable[[], None]]
"""And what ends it: vLLM's engine core outlives a program that leaves it behind."""


def _prompt(turn: int, number: int) -> list[int]:
    """A new one each time, so that the prefix cache has nothing."""
    return [100 + turn, 100 + number, *range(200, 198 + PROMPT)]


def _measured(batch: int, add: Callable[[], None], outputs: Callable[[], list[Any]]) -> Any:
    """``outputs`` gives the next (request id, tokens, is last) of some requests."""
    began, first, seen, tokens = time.perf_counter(), 0.0, set(), 0
    add()
    left = batch
    while left:
        for name, count, ended in outputs():
            tokens += count
            left -= ended
            if name not in seen:
                seen.add(name)
                first = 1000 * (time.perf_counter() - began)
    assert tokens == batch * NEW, tokens
    return first, tokens / (time.perf_counter() - began)


def _theirs(model: str, *, process: bool) -> Driven:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(process))
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(**_arguments(model)))
    kind = RequestOutputKind.DELTA
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True, output_kind=kind)

    def run(batch: int, turn: int) -> tuple[float, float]:
        def add() -> None:
            for number in range(batch):
                prompt = {"prompt_token_ids": _prompt(turn, number)}
                (rendered,) = engine.renderer.render_cmpl([prompt])
                engine.add_request(f"{turn}-{number}", rendered, params)

        def outputs() -> list[Any]:
            return [
                (said.request_id, len(said.outputs[0].token_ids), said.finished)
                for said in engine.step()
            ]

        found: tuple[float, float] = _measured(batch, add, outputs)
        return found

    return run, engine.engine_core.shutdown


async def _theirs_async(model: str) -> list[list[float]]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**_arguments(model)))
    kind = RequestOutputKind.DELTA
    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True, output_kind=kind)

    async def one(turn: int, number: int) -> tuple[float, int]:
        first, tokens = 0.0, 0
        prompt = {"prompt_token_ids": _prompt(turn, number)}
        async for said in engine.generate(prompt, params, f"{turn}-{number}"):
            first = first or time.perf_counter()
            tokens += len(said.outputs[0].token_ids)
        return first, tokens

    found = []
    for turn in range(TURNS):
        row: list[float] = []
        for batch in BATCHES:
            began = time.perf_counter()
            ends = await asyncio.gather(*(one(100 * batch + turn, n) for n in range(batch)))
            took = time.perf_counter() - began
            assert sum(tokens for _, tokens in ends) == batch * NEW
            row += [1000 * (max(first for first, _ in ends) - began), batch * NEW / took]
        found.append(row)
    engine.shutdown()
    return found


def _arguments(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "dtype": "bfloat16",
        "enforce_eager": True,
        "kv_cache_memory_bytes": 1 << 28,
        "max_model_len": CONTEXT,
        "max_num_seqs": 16,
        "disable_log_stats": True,
    }


def _requests(batch: int, turn: int) -> list[Any]:
    from enginery.enginecore import EngineCoreRequest, SamplingParams

    params = SamplingParams(max_tokens=NEW, temperature=0.0, ignore_eos=True)
    return [
        EngineCoreRequest(f"{turn}-{n}", _prompt(turn, n), sampling_params=params)
        for n in range(batch)
    ]


def _ours_config(model: str) -> Any:
    from enginery_vllm import StreamingVllmConfig

    return StreamingVllmConfig(model, CONTEXT, 16, OPTIONS).client_config()


def _ours(model: str, kind: Any) -> Driven:
    from enginery.enginecore import create_client

    client = create_client(kind, _ours_config(model))

    def run(batch: int, turn: int) -> tuple[float, float]:
        def add() -> None:
            for each in _requests(batch, turn):
                client.add_request(each)

        def outputs() -> list[Any]:
            batch = client.get_output().outputs
            return [(each.request_id, len(each.new_token_ids), each.finished) for each in batch]

        found: tuple[float, float] = _measured(batch, add, outputs)
        return found

    return run, client.shutdown


async def _ours_async(model: str) -> list[list[float]]:
    from enginery.enginecore import AsyncMPClient

    found = []
    async with AsyncMPClient(_ours_config(model)) as client:
        await client.check_health_async()
        for turn in range(TURNS):
            row: list[float] = []
            for batch in BATCHES:
                began, first, seen, tokens = time.perf_counter(), 0.0, set(), 0
                for each in _requests(batch, 100 * batch + turn):
                    await client.add_request_async(each)
                while client.unfinished:
                    for output in (await client.get_output_async()).outputs:
                        tokens += len(output.new_token_ids)
                        if output.request_id not in seen:
                            seen.add(output.request_id)
                            first = 1000 * (time.perf_counter() - began)
                assert tokens == batch * NEW, tokens
                row += [first, tokens / (time.perf_counter() - began)]
            found.append(row)
    return found


def _one_kind(kind: str, model: str) -> list[list[float]]:
    """For each turn: time to the first token and rate, of each batch."""
    if kind == "AsyncLLM":
        return asyncio.run(_theirs_async(model))
    if kind == "async_mp":
        return asyncio.run(_ours_async(model))
    if kind.startswith("LLMEngine"):
        run, end = _theirs(model, process=kind.endswith("mp"))
    else:
        run, end = _ours(model, kind)
    found = [
        [value for batch in BATCHES for value in run(batch, 100 * batch + turn)]
        for turn in range(TURNS)
    ]
    end()
    return found


def _seen(python: str) -> dict[str, list[list[float]]]:
    """Every turn of every kind, but the first of each program, which warms up."""
    seen: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env["VLLM_LOGGING_LEVEL"] = "ERROR"
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, str(ROOT / "scripts" / "make_hf_model.py"), folder]
        subprocess.run(make, check=True, capture_output=True)
        model = str(Path(folder) / "tiny-llama")
        for _ in range(ROUNDS):
            for kind in KINDS:
                command = [python, "-m", "benchmarks.vllm_clients", kind, model]
                done = subprocess.run(
                    command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
                )
                lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
                if done.returncode or not lines:
                    print(f"\n{kind}: exit code {done.returncode}\n{done.stderr[-800:]}")
                else:
                    seen[kind] += json.loads(lines[-1])[1:]
    return seen


async def main() -> bool:
    """Print the table; False where a kind did not run. There are no goals: vLLM's own step is most of it."""
    python = os.environ.get("ENGINERY_VLLM_PYTHON")
    if python is None:
        print("\none vLLM, its clients and ours: NOT RUN: ENGINERY_VLLM_PYTHON names no Python")
        return True
    seen = _seen(python)
    rows = []
    for kind, turns in seen.items():
        cells = [kind]
        for number in range(2 * len(BATCHES) if turns else 0):
            digits = 0 if number % 2 else 2
            middle, least, most = spread([turn[number] for turn in turns], digits)
            cells.append(f"{middle} ({least}–{most})")
        rows.append(cells)
    heads = ["driven by"]
    for batch in BATCHES:
        heads += [f"batch {batch}: first token (ms)", "tokens a second"]
    table(f"one vLLM, {ROUNDS} rounds of {TURNS - 1} turns: median (least–most)", heads, rows)
    return all(seen.values())


if __name__ == "__main__":
    print(json.dumps(_one_kind(*sys.argv[1:])), flush=True)
