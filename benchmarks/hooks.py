"""What hooks and discovery cost: microseconds for each call, milliseconds with many plugins installed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.tables import table
from enginery import PluginRegistry, Variant
from enginery.engine.endpoints import free_endpoint
from enginery.plugins import EngineHooks
from enginery.values import EngineRequest

CALLS, ROUNDS = 2000, 7
CHAT = EngineRequest(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "word " * 50}], "max_tokens": 64, "temperature": 0.5},
)


def _microseconds(call: Callable[[], object]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append(1e6 * (time.perf_counter() - began) / CALLS)
    return median(rounds)


def _calls(hooks: EngineHooks, variant: Variant) -> dict[str, Callable[[], object]]:
    endpoint = free_endpoint()
    return {
        "build_command": lambda: hooks.build_command(variant, endpoint),
        "estimate_tokens": lambda: hooks.estimate_tokens(CHAT, variant),
        "transform_request": lambda: hooks.transform_request(CHAT, variant),
        "transform_response": lambda: hooks.transform_response(CHAT, variant),
        "get_supported_endpoints": lambda: hooks.get_supported_endpoints(variant),
        "implements": lambda: hooks.implements("transform_response"),
    }


def _discovery(installed: int) -> float:
    """Milliseconds to look through that many plugins; none of them is imported."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(installed):
            info = Path(folder, f"engine_{number}-1.0.dist-info")
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: engine-{number}\nVersion: 1.0\n"
            )
            (info / "entry_points.txt").write_text(
                f"[enginery.engines]\ne{number} = engine_{number}\n"
            )
        rounds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            registry = PluginRegistry(path=[folder])
            rounds.append(1000 * (time.perf_counter() - began))
            assert len(registry.engine_types()) == installed
        return median(rounds)


async def main() -> bool:
    """Print both tables; there is no gate."""
    registry = PluginRegistry()
    columns = {}
    for engine_type in ("llama.cpp", "mock", "openai"):
        hooks = registry.hooks(engine_type)
        options = {"options": {"model": "/x.gguf"}} if engine_type == "llama.cpp" else {}
        model = hooks.variant_options()
        given = options.get("options", {})
        variant = Variant("m", engine_type=engine_type, options=model(**given) if model else given)
        columns[engine_type] = {n: _microseconds(c) for n, c in _calls(hooks, variant).items()}
    names = list(columns["mock"])
    rows = [(name, *(f"{column[name]:.2f}" for column in columns.values())) for name in names]
    table("hooks (µs for each call)", ("", *columns), rows)
    rows = [(str(count), f"{_discovery(count):.1f}") for count in (0, 5, 50)]
    table("discovery (ms)", ("plugins installed", "median"), rows)
    return True
