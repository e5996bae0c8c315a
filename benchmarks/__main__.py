"""Runs the benchmarks that are named, or all of them, and says whether each gate holds."""

from __future__ import annotations

import asyncio
import signal
import sys

from benchmarks import (
    enginecore,
    gateway,
    guardian,
    hooks,
    python_engines,
    readiness,
    streaming,
    streams,
    swap,
    vllm_clients,
)

BENCHMARKS = {
    "swap": swap.main,
    "readiness": readiness.main,
    "guardian": guardian.main,
    "hooks": hooks.main,
    "gateway": gateway.main,
    "streams": streams.main,
    "enginecore": enginecore.main,
    "streaming": streaming.main,
    "python_engines": python_engines.main,
    "vllm_clients": vllm_clients.main,
}


def main() -> int:
    """1 when a gate does not hold, 2 for a name that is no benchmark."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped
    print(f"with Python {sys.version.split()[0]} of {sys.base_prefix}")
    held = [asyncio.run(BENCHMARKS[name]()) for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
