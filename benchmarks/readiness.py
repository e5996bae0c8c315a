"""How late readiness is noticed, by our rhythm and by others, for loads of different length.

A child listens at once, answers 503 until its time has come, and prints the moment (CLOCK_MONOTONIC is the same
for all processes). All rhythms look by the same HTTP client.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from statistics import median

from benchmarks.tables import table
from enginery.engine.endpoints import free_endpoint
from enginery.engine.readiness import next_look
from enginery.engine.transport import HttpTransport
from enginery.errors import EngineError

LOADS = (0.06, 0.33, 0.91, 1.7)
ROUNDS = 5

SERVER = """
import asyncio, sys, time
port, load = int(sys.argv[1]), float(sys.argv[2])
ready_at = float("inf")
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            status = b"200 OK" if time.monotonic() >= ready_at else b"503 Busy"
            writer.write(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    global ready_at
    await asyncio.start_server(serve, "127.0.0.1", port)
    ready_at = time.monotonic() + load
    print(ready_at, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def _a_fixed(seconds: float) -> Callable[[float, int], float]:
    return lambda _waited, _looks: seconds


RHYTHMS: dict[str, Callable[[float, int], float]] = {
    "ours: 2 % of the time waited": lambda waited, _: next_look(waited),
    "every 20 ms": _a_fixed(0.02),
    "every 250 ms": _a_fixed(0.25),
    "250 ms, then every second": lambda _, looks: 0.25 if looks == 0 else 1.0,
}


async def _late(
    load: float, rhythm: Callable[[float, int], float], transport: HttpTransport
) -> float:
    endpoint = free_endpoint()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", SERVER, str(endpoint.port), str(load),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    began, looks, first_line = time.monotonic(), 0, asyncio.ensure_future(child.stdout.readline())
    try:
        while True:
            if looks or rhythm is not RHYTHMS["250 ms, then every second"]:
                try:
                    if (await transport.fetch(endpoint, "GET", "/health")).status == 200:
                        return time.monotonic() - float(await first_line)
                except EngineError:
                    pass
            await asyncio.sleep(rhythm(time.monotonic() - began, looks))
            looks += 1
    finally:
        child.kill()
        await child.wait()


async def main() -> bool:
    """Print the table; True when ours is within max(5 ms, 2.5 % of the load) in the median."""
    transport = HttpTransport()
    late: dict[tuple[str, float], list[float]] = {}
    for _ in range(ROUNDS):
        for load in LOADS:
            for name, rhythm in RHYTHMS.items():
                late.setdefault((name, load), []).append(await _late(load, rhythm, transport))
    await transport.close()
    rows = [
        (name, *(f"{1000 * median(late[name, load]):.1f}" for load in LOADS)) for name in RHYTHMS
    ]
    heads = ("noticed late by (ms, median)", *(f"load {1000 * load:.0f} ms" for load in LOADS))
    table(f"readiness, {ROUNDS} each", heads, rows)
    ours = next(iter(RHYTHMS))
    start = 0.1  # the child's own start counts as waiting, so the rhythm is a little slower
    held = all(median(late[ours, load]) <= max(0.005, 0.025 * (load + start)) for load in LOADS)
    print(f"gate max(5 ms, 2.5 % of the load): {'holds' if held else 'MISSED'}")
    return held
