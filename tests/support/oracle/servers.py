"""The servers of ours that are asked, and how many requests each kind of server says it has.

Knows: the routes and numbers of each, and flags: one slot and one place in line, where there is a limit at all. Does not
know: scenarios. The number of requests comes from routes that are not compared.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from enginery.enginecore.served import Served
from enginery.values import Variant
from support.core_servers import KEY, CoreServer
from support.oracle.runner import Server
from support.oracle.scenarios import LIMIT

__all__ = ["coreserver", "load_of_vllm", "mock"]

TOKEN_MS = 8
"""A long reply takes half a minute, and is ended before."""


@contextmanager
def mock() -> Iterator[Server]:
    """The mock's own server."""
    flags = ("--slots", "1", "--max-queue", "1", "--context-length", str(LIMIT))
    more = ("--itl-ms", str(TOKEN_MS), "--sleep-levels", "0,1,2")
    command = (sys.executable, "-m", "enginery_mock.server", "--port", "0", "--model", "tiny")
    process = subprocess.Popen((*command, *flags, *more), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().rpartition("http://")[2].strip()
        assert "ready" in process.stdout.readline()
        yield Server(address, _load_of_mock, fill=(1, 1))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def coreserver() -> Iterator[Server]:
    """A core server around the mock's executor; it has no limit of its own."""
    options = {"in_process": True, "itl_ms": TOKEN_MS}
    variant = Variant("tiny", engine_type="mock", context_length=LIMIT, parallel=8, options=options)
    core = CoreServer(Served.of(variant))
    try:
        address = core.ready().url.removeprefix("http://")
        yield Server(address, _load_of_coreserver, {"Authorization": f"Bearer {KEY}"})
    finally:
        core.close()


def load_of_vllm(server: Server) -> int:
    """Requests whose answers are not over; needs ``--enable-server-load-tracking``."""
    load: int = server.value("/load")["server_load"]
    return load


def _load_of_mock(server: Server) -> int:
    """Those in slots and those in line."""
    report = server.value("/mock/requests")
    return int(report["running"] + report["queued"])


def _load_of_coreserver(server: Server) -> int:
    """Those that the core has, held ones among them."""
    lines = dict(line.split() for line in server.text("/metrics").splitlines() if line[0] != "#")
    return int(float(lines["enginery_core_unfinished"]))
