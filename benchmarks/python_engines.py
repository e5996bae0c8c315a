"""What it costs to serve a Python backend: one tiny llama.cpp model three ways, and the core server's own share.

The model is the demo's, on one thread: behind llama.cpp's native HTTP server, in process behind our core server, and
in process alone (`InprocClient`, in a Python of its own). The same client asks both servers. The core server's share
is measured on the mock executor, which computes nothing: time to first token through HTTP less the same through an
`AsyncMPClient`, and the CPU time of the server's process alone (without its core) for each token of 64 streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.processes import pss, settle
from benchmarks.tables import spread, table
from enginery.engine.endpoints import free_endpoint
from enginery.enginecore import (
    AsyncMPClient,
    ClientConfig,
    EngineCoreRequest,
    InprocClient,
    SamplingParams,
)
from enginery.enginecore.served import Served
from enginery.values import Command, Variant
from enginery_llamacpp.backend import LlamaCppBackend
from enginery_llamacpp.binary import BUNDLED_SERVER
from enginery_llamacpp.command import build_command
from enginery_llamacpp.plugin import DEMO_MODEL

__all__ = ["main"]

ROUNDS = 5
ASKED, STREAMS, TOKENS = 60, 8, 200
MANY, MANY_TOKENS = 64, 300
STEP_MS = 5  # without a pause, tokens come several to a frame, which is cheap

ADDED_TTFT_MS, TOKEN_CPU_US = 0.3, 10.0

PROMPT = "Lists are mutable sequences"
FIRST = re.compile(rb'"(?:text|content)":"[^"]')
END = b"\n\r\n0\r\n\r\n"  # a head may end with 0 and two line ends, too


def _variant(*, in_process: bool) -> Variant:
    options = {"model": str(DEMO_MODEL), "threads": 1, "in_process": in_process}
    return Variant(
        "docs", engine_type="llama.cpp", context_length=512, parallel=STREAMS, options=options
    )


def _mock(step_ms: float = 0.0) -> Variant:
    options = {"in_process": True, "itl_ms": step_ms}
    return Variant("docs", engine_type="mock", context_length=1024, parallel=MANY, options=options)


class _Server:
    """A server under measurement, and how it is asked: plain sockets, so that the client costs little."""

    def __init__(self, command: Command, port: int, key: str) -> None:
        self.port, self._key = port, key
        self.frames = 0
        """Of the last `rate`: fewer than tokens where a late reader gets several in one."""
        self.process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env}, stdout=-3, stderr=-3
        )
        self._wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), self.connect() as link:
                link.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                if b" 200 " in link.recv(4096):
                    return
            time.sleep(0.02)
        raise AssertionError("the server was not ready in 30 s")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def request(self, tokens: int) -> bytes:
        asked = {"prompt": PROMPT, "max_tokens": tokens, "stream": True, "ignore_eos": True}
        body = json.dumps({**asked, "temperature": 0}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def first_token_ms(self, times: int) -> list[float]:
        """Of so many requests, one after the other."""
        took, asked = [], self.request(2)
        for _ in range(times):
            with self.connect() as link:
                began, seen = time.perf_counter(), b""
                link.sendall(asked)
                while not FIRST.search(seen):
                    seen += link.recv(65536)
                took.append(1000 * (time.perf_counter() - began))
                while not seen.endswith(END):
                    seen += link.recv(65536)
        return took

    async def rate(self, streams: int, tokens: int) -> float:
        """Tokens a second over all streams, from the first request to the last token."""
        began = time.perf_counter()
        counts = await asyncio.gather(*(self._stream(tokens) for _ in range(streams)))
        took = time.perf_counter() - began
        assert min(counts) > 2, counts
        self.frames = sum(counts)
        return streams * tokens / took

    async def _stream(self, tokens: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        writer.write(self.request(tokens))
        frames, tail = 0, b""
        while not tail.endswith(END):
            data = await reader.read(65536)
            assert data, "the stream broke off"
            frames += data.count(b"data: ")
            tail = (tail + data)[-len(END) :]
        writer.close()
        return frames


@contextlib.contextmanager
def _native() -> Iterator[_Server]:
    at = free_endpoint()
    with _running(build_command(_variant(in_process=False), at, BUNDLED_SERVER), at) as server:
        yield server


@contextlib.contextmanager
def _served(variant: Variant) -> Iterator[_Server]:
    at = free_endpoint()
    with _running(Served.of(variant).command(at), at) as server:
        yield server


@contextlib.contextmanager
def _running(command: Command, at: Any) -> Iterator[_Server]:
    server = _Server(command, at.port, at.api_key or "")
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _requests(count: int, tokens: int, turn: str) -> list[EngineCoreRequest]:
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return [
        EngineCoreRequest(f"{turn}-{n}", prompt=PROMPT, sampling_params=params)
        for n in range(count)
    ]


def _in_process() -> dict[str, float]:
    """In a Python of its own: time to first token, rates and memory, without any server."""
    options = {"variant": _variant(in_process=True)}
    with InprocClient(ClientConfig(backend=LlamaCppBackend, options=options)) as client:
        firsts = []
        for turn in range(ASKED):
            began = time.perf_counter()
            client.add_request(_requests(1, 2, f"first-{turn}")[0])
            while not any(output.text for output in client.get_output().outputs):
                pass
            firsts.append(1000 * (time.perf_counter() - began))
            while client.unfinished:
                client.get_output()
        rates = {}
        for streams in (1, STREAMS):
            began = time.perf_counter()
            for each in _requests(streams, TOKENS, f"rate-{streams}"):
                client.add_request(each)
            while client.unfinished:
                client.get_output()
            rates[f"rate-{streams}"] = streams * TOKENS / (time.perf_counter() - began)
        return {"first": median(firsts), **rates, "memory": pss(os.getpid())}


async def _of_server(server: _Server) -> dict[str, float]:
    return {
        "first": median(server.first_token_ms(ASKED)),
        "rate-1": await server.rate(1, TOKENS),
        f"rate-{STREAMS}": await server.rate(STREAMS, TOKENS),
        "memory": pss(server.pid),
    }


async def _three_ways() -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {"native": [], "core server": [], "in process": []}
    alone = [sys.executable, "-m", "benchmarks.python_engines", "alone"]
    with _native() as native, _served(_variant(in_process=True)) as ours:
        for turn in range(ROUNDS + 1):
            seen = {"native": await _of_server(native), "core server": await _of_server(ours)}
            done = await asyncio.to_thread(
                subprocess.run, alone, capture_output=True, text=True, check=True
            )
            seen["in process"] = json.loads(done.stdout.splitlines()[-1])
            if turn:  # the first round warms up
                for name, numbers in seen.items():
                    found[name].append(numbers)
    return found


def _own_cpu(pid: int) -> float:
    """Seconds on a CPU of one process, its children left out."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            spent += int(thread.read_text().split()[0])
    return spent / 1e9


async def _added() -> tuple[list[float], list[float], list[float]]:
    """Milliseconds that the core server adds to the first token, and its µs of CPU for each token; tokens for each frame."""
    added, cpu, each = [], [], []
    with _served(_mock()) as quick, _served(_mock(STEP_MS)) as server:
        async with AsyncMPClient(Served.of(_mock()).config()) as client:
            for turn in range(ROUNDS + 1):
                through, direct = [], []
                for n in range(ASKED):  # in turn: what else the machine does meets both
                    through += quick.first_token_ms(1)
                    direct.append(await _direct_ms(client, f"{turn}-{n}"))
                before = _own_cpu(server.pid)
                await server.rate(MANY, MANY_TOKENS)
                spent = _own_cpu(server.pid) - before
                if turn:
                    added.append(median(through) - median(direct))
                    cpu.append(1e6 * spent / (MANY * MANY_TOKENS))
                    each.append(MANY * MANY_TOKENS / server.frames)
    return added, cpu, each


async def _direct_ms(client: AsyncMPClient, name: str) -> float:
    began = time.perf_counter()
    await client.add_request_async(_requests(1, 2, name)[0])
    while not any(output.text for output in (await client.get_output_async()).outputs):
        pass
    took = 1000 * (time.perf_counter() - began)
    while client.unfinished:
        await client.get_output_async()
    return took


async def main() -> bool:
    """Print the tables; False when the core server costs more than it may."""
    settle(5.0)
    found = await _three_ways()
    heads = ("tiny llama.cpp model", "TTFT p50 (ms)", "tokens/s, 1", f"tokens/s, {STREAMS}", "MiB")
    rows = [(name, *_cells(numbers)) for name, numbers in found.items()]
    table(f"one model, three ways (median of {ROUNDS} rounds)", heads, rows)
    added, cpu, each = await _added()
    goals = (
        ("added to TTFT, p50 (ms)", added, ADDED_TTFT_MS, 3),
        (f"CPU for a token, {MANY} streams (µs)", cpu, TOKEN_CPU_US, 1),
    )
    met = [median(values) <= goal for _, values, goal, _ in goals]
    shown = [
        (what, *spread(values, digits), f"≤ {goal:g}", "yes" if good else "NO")
        for (what, values, goal, digits), good in zip(goals, met, strict=True)
    ]
    shown.append((f"tokens in a frame, {MANY} streams", *spread(each, 2), "–", "–"))
    columns = ("core server, mock executor", "median", "min", "max", "goal", "met")
    table(f"what the core server costs ({ROUNDS} rounds)", columns, shown)
    return all(met)


def _cells(numbers: Sequence[dict[str, float]]) -> tuple[str, ...]:
    def middle(name: str) -> float:
        return median(each[name] for each in numbers)

    rates = (f"{middle('rate-1'):.0f}", f"{middle(f'rate-{STREAMS}'):.0f}")
    return (f"{middle('first'):.2f}", *rates, f"{middle('memory') / 2**20:.0f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["alone"]:
        print(json.dumps(_in_process()))
    else:
        sys.exit(0 if asyncio.run(main()) else 1)
