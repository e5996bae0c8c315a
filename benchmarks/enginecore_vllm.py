"""vLLM's own three clients, measured as ours are. Run by a Python that has vLLM; prints one JSON object.

Imports nothing of ours, for vLLM lives in an environment of its own. The executor computes nothing: it answers every
scheduled request with one token. vLLM's step does more than ours even so: block tables, grammars, logprobs and
multi-modal inputs are looked at in each of them. Written for vLLM 0.32 (V1), on a CPU, without weights.
"""
# ruff: noqa: ARG002, D403  # vLLM's method takes these; its name begins with a small letter

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.update(
    VLLM_LOGGING_LEVEL="ERROR",
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_TARGET_DEVICE="cpu",
)
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

ROUNDS, BATCHES, PROMPT, NEW, CALLS = 5, (1, 16, 64), 16, 200, 300
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 32_000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


class Nothing(Executor):  # type: ignore[misc]  # untyped where vLLM is not installed
    """Computes nothing."""

    def _init_executor(self) -> None:
        self.last: Any = None

    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: Any = (),
        kwargs: Any = None,
        **_: Any,
    ) -> list[Any]:
        """What a worker would answer."""
        match method:
            case "get_kv_cache_spec":
                spec = FullAttentionSpec(
                    block_size=16, num_kv_heads=4, head_size=16, dtype=torch.float32
                )
                return [{"model.layers.0.self_attn.attn": spec}]
            case "determine_available_memory":
                return [1 << 30]
            case "get_supported_kv_cache_layouts":
                return [["NHD", "HND"]]
            case "get_supported_tasks":
                return [("generate",)]
            case "compile_or_warm_up_model":
                return []
        return [None]

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """One token for each request whose prompt is complete."""
        ids = list(scheduler_output.num_scheduled_tokens)
        output = ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={name: number for number, name in enumerate(ids)},
            sampled_token_ids=[[1000]] * len(ids),
        )
        if not non_block:
            return output
        from concurrent.futures import Future

        done: Future[ModelRunnerOutput] = Future()
        done.set_result(output)
        return done

    def check_health(self) -> None:
        """Never fails."""


def config(folder: str) -> Any:
    """vLLM's configuration for a model that has no weights and no tokenizer."""
    Path(folder, "config.json").write_text(json.dumps(MODEL))
    return EngineArgs(
        model=folder,
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        max_num_seqs=64,
        max_model_len=4096,
        max_num_batched_tokens=8192,
        enable_prefix_caching=True,
        async_scheduling=False,
        disable_log_stats=True,
    ).create_engine_config()


def requests(batch: int, turn: int) -> list[Any]:
    """As in `benchmarks.enginecore`."""
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, detokenize=False)
    return [
        EngineCoreRequest(
            request_id=f"{turn}-{number}",
            prompt_token_ids=[turn, number, *range(PROMPT - 2)],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        for number in range(batch)
    ]


def ended(outputs: Any) -> int:
    """Requests that are over with this batch."""
    return sum(output.finish_reason is not None for output in outputs.outputs)


def inproc(client: Any, batch: int, turn: int) -> float:
    """Microseconds a step."""
    for each in requests(batch, turn):
        client.add_request(each)
    client.get_output()
    left, steps, began = batch, 0, time.perf_counter()
    while left:
        left -= ended(client.get_output())
        steps += 1
    return 1e6 * (time.perf_counter() - began) / steps


def sync_mp(client: Any, batch: int, turn: int) -> tuple[float, float]:
    """Tokens a second, and milliseconds to the last request's first token."""
    began, left, waiting, first = time.perf_counter(), batch, set(), 0.0
    for each in requests(batch, turn):
        waiting.add(each.request_id)
        client.add_request(each)
    while left:
        outputs = client.get_output()
        left -= ended(outputs)
        if waiting:
            waiting -= {output.request_id for output in outputs.outputs}
            first = 1000 * (time.perf_counter() - began)
    return batch * NEW / (time.perf_counter() - began), first


async def async_mp(client: Any, batch: int, turn: int) -> float:
    """Tokens a second."""
    began, left = time.perf_counter(), batch
    for each in requests(batch, turn):
        await client.add_request_async(each)
    while left:
        left -= ended(await client.get_output_async())
    return batch * NEW / (time.perf_counter() - began)


def calls(client: Any) -> float:
    """Microseconds for a call there and back."""
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        client.is_sleeping()
        took.append(time.perf_counter() - began)
    return 1e6 * median(took)


async def measured() -> dict[str, list[float]]:
    """Every number of every round, by name."""
    seen: dict[str, list[float]] = {}

    def note(name: str, value: float, turn: int) -> None:
        if turn:  # the first round warms up
            seen.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        settings = config(folder)

        def made(*, process: bool, loop: bool) -> Any:
            return EngineCoreClient.make_client(process, loop, settings, Nothing, log_stats=False)

        client = made(process=False, loop=False)
        for turn in range(ROUNDS + 1):
            for batch in BATCHES:
                note(f"step-{batch}", inproc(client, batch, turn * 100 + batch), turn)
        client.shutdown()
        began = time.perf_counter()
        client = made(process=True, loop=False)
        note("start", 1000 * (time.perf_counter() - began), 1)
        for turn in range(ROUNDS + 1):
            for batch in BATCHES:
                rate, first = sync_mp(client, batch, turn * 100 + batch)
                note(f"sync-{batch}", rate, turn)
                note(f"first-{batch}", first, turn)
            note("call", calls(client), turn)
        client.shutdown()
        client = made(process=True, loop=True)
        for turn in range(ROUNDS + 1):
            for batch in BATCHES:
                note(f"async-{batch}", await async_mp(client, batch, turn * 100 + batch), turn)
        client.shutdown()
    return seen


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured())))
    sys.stdout.flush()
