"""The mock engine's process: ``enginery-mock --port 8081`` or ``python -m enginery_mock.server``.

Knows: the life of the process: bind at once, load, be ready, leave on a signal; and at which point each
fault begins. Does not know: routes (`app`) or how the faults work (`faults`). It imports neither pydantic, click, pluggy nor
prometheus_client, so that it starts in well under 300 ms; a test watches that.

Exit codes: 0 after SIGTERM or SIGINT, at once, also with requests in flight; 1 when the address is
taken; ``--load-exit-code`` when told to fail.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import sys
from collections.abc import Sequence

from aiohttp import web

from enginery import Endpoint
from enginery_mock.app import MockApp
from enginery_mock.devices import Ledger
from enginery_mock.faults import flood_log, fork_grandchild, hold_port, ignore_signals
from enginery_mock.flags import API_KEY_VARIABLE, ServerConfig, parse
from enginery_mock.printing import complain, say

__all__ = ["main", "serve"]

LOAD_STEPS = 10
SHUTDOWN_TIMEOUT = 0.01  # seconds; aiohttp takes 0 for "without end"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until a signal; returns the exit code."""
    config = parse(argv)
    if config.fork_grandchild is not None:
        fork_grandchild(config.fork_grandchild)
    return asyncio.run(serve(config))


async def serve(config: ServerConfig) -> int:
    """Bind, load, serve; returns the exit code when a signal came or loading failed."""
    stopping = _stopping(config)
    ledger = Ledger(config.devices, config.memory_late_ms)
    mock = MockApp(config, ledger)
    runner = web.AppRunner(
        mock.application(),
        handle_signals=False,
        handler_cancellation=True,  # a client that leaves frees its slot
        access_log=None,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
    )
    await runner.setup()
    try:
        listener = _listen(config)
        await web.SockSite(runner, listener).start()
    except OSError as error:
        where = config.uds or f"{config.host}:{config.port}"
        complain(f"cannot listen on {where}: {error.strerror}")
        await runner.cleanup()
        return 1
    port = 0 if config.uds else listener.getsockname()[1]
    at = Endpoint(config.host, port, unix_path=config.uds)
    if config.memory is not None:
        ledger.hold(config.memory)
    say(f"listening on {at.base_url}")
    if config.flood_log is not None:
        flood_log(config.flood_log)
    try:
        return await _until_stopped(config, mock, at, stopping)
    finally:
        if config.hold_port:
            hold_port(listener, config.hold_port)
        await runner.cleanup()


async def _until_stopped(
    config: ServerConfig, mock: MockApp, at: Endpoint, stopping: asyncio.Event
) -> int:
    """Load, then serve. A signal ends it in either phase."""
    stopped = asyncio.create_task(stopping.wait())
    loading = asyncio.create_task(_load(config))
    await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        loading.cancel()
        return 0
    if config.load_exit_code is not None:
        stopped.cancel()
        complain(f"failed to load model {config.model!r}: told to by --load-exit-code")
        return config.load_exit_code
    mock.ready = True
    slots = "1 slot" if config.slots == 1 else f"{config.slots} slots"
    say(f"ready: model {config.model!r}, {slots}, context of {config.context_length} tokens")
    say(f"try: {_curl(config, at)}")
    await stopped
    return 0


async def _load(config: ServerConfig) -> None:
    """Take the time that loading takes, and say how far it is, as engines do."""
    if config.load_ms:
        for step in range(1, LOAD_STEPS + 1):
            await asyncio.sleep(config.load_ms / 1000 / LOAD_STEPS)
            complain(f"loading model {config.model!r}: {100 * step // LOAD_STEPS} %")
    if config.hang_in_load:
        await asyncio.Event().wait()


def _listen(config: ServerConfig) -> socket.socket:
    """A socket of our own, so that it can be handed on. As with most engines, a unix socket's file stays."""
    if config.uds is not None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(config.uds)
        return listener
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    return socket.create_server((config.host, config.port), family=family, backlog=128)


def _stopping(config: ServerConfig) -> asyncio.Event:
    """Set by SIGINT, and by SIGTERM, unless they are to be ignored."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    if config.never_die:
        ignore_signals()
        return stopping
    loop.add_signal_handler(signal.SIGINT, stopping.set)
    if config.ignore_sigterm:
        loop.add_signal_handler(signal.SIGTERM, complain, "SIGTERM ignored")
    else:
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
    return stopping


def _curl(config: ServerConfig, at: Endpoint) -> str:
    body = {"model": config.model, "messages": [{"role": "user", "content": "Hello"}]}
    words = [
        "curl",
        f"{at.request_url}/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
    ]
    if at.unix_path is not None:
        words[1:1] = ["--unix-socket", at.unix_path]
    line = shlex.join([*words, "-d", json.dumps(body)])
    return line if config.api_key is None else f'{line} -H "x-api-key: ${API_KEY_VARIABLE}"'


if __name__ == "__main__":
    sys.exit(main())
