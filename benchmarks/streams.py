"""What many streams weigh in our gateway, and whether one huge request holds the others up.

Memory: the growth of the process family (PSS) with 2,000 open streams that get a chunk each second.
Stall: 16 streams of 200 chunks a second each, while bodies of 10 MB of long strings are posted to the
same gateway; the number is the longest that any chunk took from the engine's send() to the client.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.processes import pss, settle
from benchmarks.programs import LOAD, NotRun, build, load, pinned
from benchmarks.tables import table
from benchmarks.targets import ENGINE_CPU, Target, engine, running, targets

__all__ = ["main"]

OURS, NAIVE = "ours, plain", "naive aiohttp proxy"
OTHERS = (NAIVE, "nginx")

STREAMS = 2000
KIB_PER_STREAM = 40.0
OPEN_SECONDS = 8.0
SAMPLE_AFTER = 5.0
"""Seconds after which all streams are open and have had chunks."""

STALL_MS = 20.0
STALL_ROUNDS = 5
STALL_SECONDS = 3.0
BODY_EVERY = 0.5
PACED = ("-m", "stream", "-c", "16", "-N", "64", "-D", "5000")
BODY = json.dumps(
    {
        "model": "fake",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "a word and another " * 55_000}] * 10,
    }
).encode()


def _kib_per_stream(target: Target, pid: int) -> float:
    """What each stream adds to a gateway that has seen traffic before."""
    load(target.address, "-m", "stream", "-c", "64", "-N", "8", "-d", "1", cpus=ENGINE_CPU)
    before = pss(pid)
    words = ["-m", "stream", "-c", str(STREAMS), "-N", "1000", "-D", "1000000"]
    argv = [*pinned(ENGINE_CPU), str(build(LOAD)), "-a", target.address, *words]
    client = subprocess.Popen([*argv, "-d", str(OPEN_SECONDS)], stdout=subprocess.PIPE)
    time.sleep(SAMPLE_AFTER)
    grown = pss(pid) - before
    seen = json.loads(client.communicate()[0])
    # a stream that never got a chunk was not open
    if seen["errors"] or seen["chunks"] < STREAMS * (OPEN_SECONDS - SAMPLE_AFTER):
        raise NotRun(f"{target.name} did not keep {STREAMS} streams open: {seen}")
    return grown / 1024 / STREAMS


def _post_bodies(address: str, until: threading.Event) -> None:
    """A huge request every half second, from the client's CPU."""
    os.sched_setaffinity(0, {int(ENGINE_CPU)})  # of this thread
    headers = {"Content-Type": "application/json"}
    while not until.wait(BODY_EVERY):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("POST", "/v1/chat/completions", BODY, headers)
        reply = connection.getresponse()
        reply.read()
        connection.close()
        assert reply.status == 200, reply.status


def _longest_ms(address: str, *, disturbed: bool) -> float:
    """The longest that a chunk took, in the median round."""
    rounds = []
    for _ in range(STALL_ROUNDS):
        settle(2.0)
        done = threading.Event()
        poster = threading.Thread(target=_post_bodies, args=(address, done))
        if disturbed:
            poster.start()
        seen = load(address, *PACED, "-d", str(STALL_SECONDS), cpus=ENGINE_CPU)
        done.set()
        if disturbed:
            poster.join()
        rounds.append(seen["transit_max"] / 1000)
    return median(rounds)


def _measured(found: Sequence[Target], engine_port: int) -> tuple[list[list[str]], bool | None]:
    """The table's rows, and whether ours keeps its bounds; None when there is no gateway of ours."""
    held: bool | None = None
    rows = [_row("direct", None, f"127.0.0.1:{engine_port}")]
    for target in found:
        ours = target.name == OURS
        if not ours and target.name not in OTHERS:
            continue
        try:
            with running(target) as process:
                # aiohttp's client opens 100 connections at most, so the naive proxy cannot
                many = target.name != NAIVE
                kib = _kib_per_stream(target, process.pid) if many else None
                rows.append(_row(target.name, kib, target.address))
        except NotRun as reason:
            print(f"{target.name}: NOT RUN: {reason}")
            held = False if ours else held
            continue
        if ours:
            held = kib is not None and kib <= KIB_PER_STREAM and float(rows[-1][3]) < STALL_MS
    return rows, held


def _row(name: str, kib: float | None, address: str) -> list[str]:
    quiet, disturbed = (_longest_ms(address, disturbed=on) for on in (False, True))
    return [name, "–" if kib is None else f"{kib:.1f}", f"{quiet:.1f}", f"{disturbed:.1f}"]


async def main() -> bool:
    """Print the table; True when our gateway keeps both bounds."""
    if len(os.sched_getaffinity(0)) < 2:
        print("\nstreams: NOT RUN: it needs two CPUs")
        return True
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two descriptors for each stream
    try:
        with engine() as (port, _):
            rows, held = _measured(targets(port)[0], port)
    except NotRun as reason:
        print(f"\nstreams: NOT RUN: {reason}")
        return True
    heads = ["", f"KiB a stream at {STREAMS}", "longest chunk, ms", "with 10 MB bodies, ms"]
    table("open streams", heads, rows)
    bounds = f"≤ {KIB_PER_STREAM:g} KiB a stream, < {STALL_MS:g} ms with 10 MB bodies"
    word = "not measured" if held is None else "hold" if held else "MISSED"
    print(f"gates of ours: {bounds}: {word}")
    return held is not False
