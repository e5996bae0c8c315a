"""How many requests each kind of server says it has, and the servers of ours that are asked.

Knows: the routes and numbers of each. Does not know: scenarios. What is asked for the number of requests does not go
through the routes that are compared.
"""

from __future__ import annotations

from support.oracle.runner import Server

__all__ = ["load_of_coreserver", "load_of_mock", "load_of_vllm"]


def load_of_vllm(server: Server) -> int:
    """Requests whose answers are not over; needs ``--enable-server-load-tracking``."""
    load: int = server.value("/load")["server_load"]
    return load


def load_of_mock(server: Server) -> int:
    """Those in slots and those in line."""
    report = server.value("/mock/requests")
    return int(report["running"] + report["queued"])


def load_of_coreserver(server: Server) -> int:
    """Those that the core has, held ones among them."""
    lines = dict(line.split() for line in server.text("/metrics").splitlines() if line[0] != "#")
    return int(float(lines["enginery_core_unfinished"]))
