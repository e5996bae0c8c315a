"""What a request costs on its way through our gateway, beside other gateways and none.

One fake engine behind all of them. Engine and load client share one CPU, the gateway under test has
another, so the numbers are per core and repeatable. Rounds visit all targets in random order; the
numbers are medians; samples that other programs on the machine disturbed are dropped while others are
left. CPU is that of the target's whole process family, from schedstat.

Three loads: one connection (how long the way is), 64 connections (how many requests, at what cost) and
64 streams of 200 chunks a second each (what a chunk costs that arrives alone, as from real engines).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.judgement import Bound, verdicts
from benchmarks.processes import busy_cpus, cpu_seconds, pss, settle
from benchmarks.programs import LOAD, NotRun, build, load
from benchmarks.tables import table
from benchmarks.targets import ENGINE_CPU, Target, engine, running, targets

__all__ = ["BOUNDS", "LOADS", "main"]

ROUNDS = 3
SECONDS = 1.2
STREAM_SECONDS = 4.0
"""Streams take a third of a second each, and only whole ones count; a load's own connections are opened in the first."""
WARM_SECONDS = 0.4
SLOW_SECONDS = 8.0
"""For a target that answers nothing while it is warmed up."""
QUIET_WAIT = 2.0
DISTURBED = 0.2
"""CPUs' worth of work by others during a sample."""

LOADS: Mapping[str, Sequence[str]] = {
    # the fake engine's whole reply says that it has 64 tokens: folded, it comes in as many chunks
    "one": ("-m", "json", "-c", "1", "-N", "64"),
    "many": ("-m", "json", "-c", "64", "-N", "64"),
    "streams": ("-m", "stream", "-c", "64", "-N", "64", "-D", "5000"),
}

DIRECT, NAIVE, PLAIN, FOLDED = "direct", "naive aiohttp proxy", "ours, plain", "ours, folded"

BOUNDS = [
    Bound("CPU per chunk", PLAIN, "us_per_chunk", "nginx", at_most=1.4, gate=True),
    Bound("CPU per request", PLAIN, "ms_per_request", "vllm-router", at_most=1.0, gate=True),
    Bound("CPU per request", PLAIN, "ms_per_request", NAIVE, at_most=1 / 3, gate=True),
    Bound("requests/s", PLAIN, "rps", "vllm-router", at_least=1.0),
    Bound("requests/s, fast path", PLAIN, "rps", "vllm-router", at_least=1.8),
    Bound("requests/s", PLAIN, "rps", "LiteLLM", at_least=200.0),
    Bound("added p50", PLAIN, "added_us", "vllm-router", at_most=1.1),
    Bound("TTFT p50", PLAIN, "ttft_ms", "nginx", at_most=1.1),
    Bound("CPU per request", FOLDED, "ms_per_request", "vllm-router", at_most=1.0),
    Bound("CPU per request", FOLDED, "ms_per_request", NAIVE, at_most=1 / 3),
    Bound("requests/s", FOLDED, "rps", "vllm-router", at_least=1.0),
]
"""What we promise (gates) and what we aim at (goals), as ratios within one run."""


@dataclass(frozen=True)
class Sample:
    """One run of one load: what the client saw, and what it cost."""

    seen: Mapping[str, float]
    cpu: float
    pss: int
    noise: float


Samples = dict[str, list[Sample]]
"""By load."""


def sample(
    target: Target | None, address: str, words: Sequence[str], pid: int | None, engine_pid: int
) -> Sample:
    """Warm up, then measure; without a target, the engine itself."""
    without = None if target is None else target.brings
    settle(QUIET_WAIT)
    warm = load(address, *words, "-d", str(WARM_SECONDS), cpus=ENGINE_CPU)
    measured = STREAM_SECONDS if "stream" in words else SECONDS
    seconds = measured if warm["requests"] or warm["chunks"] else max(SLOW_SECONDS, measured)

    def spent() -> tuple[float, float, float]:
        """CPU seconds of the target, of it with the engines, and of the whole machine."""
        own = 0.0 if pid is None else cpu_seconds(pid, without)
        whole = 0.0 if pid is None else cpu_seconds(pid)
        return own, whole + cpu_seconds(engine_pid), busy_cpus()

    before = spent()
    seen = load(address, *words, "-d", str(seconds), cpus=ENGINE_CPU)
    own, known, machine = (after - start for after, start in zip(spent(), before, strict=True))
    noise = max(0.0, machine - known - seen["cpu"]) / seconds
    return Sample(seen, own, 0 if pid is None else pss(pid, without), noise)


def loads_of(target: Target | None) -> list[str]:
    """The loads that make sense for a target; None is the engine itself."""
    return [name for name in LOADS if target is None or target.streams or name != "streams"]


def summary(samples: Samples, direct_p50: float) -> dict[str, float]:
    """The table's numbers of one target; one that was not measured is missing."""
    found: dict[str, float] = {}
    kept = {name: undisturbed(several) for name, several in samples.items()}
    if "one" in kept:
        found["added_us"] = median(s.seen["p50"] for s in kept["one"]) - direct_p50
    if answered := [s for s in kept.get("many", []) if s.seen["requests"]]:
        found["rps"] = median(s.seen["rps"] for s in answered)
        found["ms_per_request"] = median(1000 * s.cpu / s.seen["requests"] for s in answered)
    if answered := [s for s in kept.get("streams", []) if s.seen["chunks"]]:
        found["us_per_chunk"] = median(1e6 * s.cpu / s.seen["chunks"] for s in answered)
        found["ttft_ms"] = median(s.seen["ttft50"] / 1000 for s in answered)
        found["transit99_us"] = median(s.seen["transit99"] for s in answered)
    everything = [s for several in samples.values() for s in several]
    found["mib"] = max((s.pss for s in everything), default=0) / 2**20
    found["wrong"] = sum(s.seen["errors"] + s.seen["short"] for s in everything)
    return found


def undisturbed(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those that other programs left alone; all, when they left none."""
    return [s for s in samples if s.noise < DISTURBED] or samples


COLUMNS = {
    "added_us": ("added p50, µs", 0),
    "rps": ("requests/s", 0),
    "ms_per_request": ("CPU ms/request", 4),
    "us_per_chunk": ("CPU µs/chunk", 1),
    "ttft_ms": ("TTFT p50, ms", 1),
    "transit99_us": ("chunk transit p99, µs", 0),
    "mib": ("PSS MiB", 0),
    "wrong": ("wrong", 0),
}


def show(results: Mapping[str, Mapping[str, float]]) -> None:
    """The one table."""
    heads = ["", *(head for head, _ in COLUMNS.values())]
    rows = []
    for name, numbers in results.items():
        cells = [
            f"{numbers[key]:.{digits}f}"
            if key in numbers and not (name == DIRECT and key in {"ms_per_request", "us_per_chunk"})
            else "–"
            for key, (_, digits) in COLUMNS.items()
        ]
        rows.append([name, *cells])
    table("the way through the gateway: one core for it, one for engine and client", heads, rows)


def _measure(
    found: Sequence[Target], engine_port: int, engine_pid: int
) -> dict[str, dict[str, float]]:
    samples: dict[str, Samples] = {}
    with contextlib.ExitStack() as up:
        started: dict[Target, int] = {}
        for target in found:
            try:
                started[target] = up.enter_context(running(target)).pid
            except NotRun as reason:
                print(f"{target.name}: NOT RUN: {reason}")
        order = random.Random(0)
        everyone: list[Target | None] = [None, *started]
        for _ in range(ROUNDS):
            for name, words in LOADS.items():
                order.shuffle(everyone)
                for one_of in everyone:
                    if name not in loads_of(one_of):
                        continue
                    address = f"127.0.0.1:{engine_port}" if one_of is None else one_of.address
                    pid = None if one_of is None else started[one_of]
                    row = DIRECT if one_of is None else one_of.name
                    one = sample(one_of, address, words, pid, engine_pid)
                    samples.setdefault(row, {}).setdefault(name, []).append(one)
    direct = median(s.seen["p50"] for s in undisturbed(samples[DIRECT]["one"]))
    names = [DIRECT, *(target.name for target in started)]
    disturbed = [
        s.noise >= DISTURBED for by in samples.values() for some in by.values() for s in some
    ]
    print(f"\ngateway: {len(disturbed)} samples, {sum(disturbed)} disturbed by other programs")
    return {name: summary(samples[name], direct) for name in names}


async def main() -> bool:
    """Print the table and the verdicts; True when every gate that could be measured holds."""
    if len(os.sched_getaffinity(0)) < 2:
        print("\ngateway: NOT RUN: it needs two CPUs")
        return True
    try:
        build(LOAD)
        with engine() as (port, pid):
            found, missing = targets(port)
            results = _measure(found, port, pid)
    except NotRun as reason:
        print(f"\ngateway: NOT RUN: {reason}")
        return True
    show(results)
    for line in missing:
        print(f"{line}")
    rows, held = verdicts(BOUNDS, results)
    wrong = results.get(PLAIN, {}).get("wrong", 0) + results.get(FOLDED, {}).get("wrong", 0)
    table("ratios", ["what", "row", "to", "ratio", "bound", "kind", "met"], rows)
    print(f"wrong replies of ours: {wrong:.0f} (gate: 0)")
    return held and not wrong
