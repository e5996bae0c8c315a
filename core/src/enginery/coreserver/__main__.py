"""The process of a core server: ``python -m enginery.coreserver --port 8081``.

Knows: the process's life: start the core, listen, be ready, leave on a signal or with the core. Does not know: routes
(`app`), or what it serves: engine_type and variant come in the environment (`enginecore.served`). Neither pydantic,
click, pluggy nor prometheus_client is imported here, for the start's sake; plugins are found in the core's process.

Exit codes: 0 after SIGTERM or SIGINT; 1 when the model cannot be loaded, the address is taken, or the core died.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from enginery.enginecore.async_mp import AsyncMPClient
from enginery.enginecore.served import KEY_VARIABLE, Served, variant_of
from enginery.errors import EngineryError
from enginery.values import Endpoint

if TYPE_CHECKING:
    from enginery.coreserver.app import CoreApp

__all__ = ["main"]

BACKLOG = 128
LAST_WORDS = 1.0
"""Seconds in which replies may end after the core's death."""

CORE_END = 4.0
"""Seconds that the core has to end before it is killed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal or the core's end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m enginery.coreserver", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--uds", help="listen on this unix socket instead")
    found = parser.parse_args(argv)
    key = os.environ.pop(KEY_VARIABLE, None)  # the core, and what it starts, need not know it
    try:
        served = Served.from_environment(os.environ)
        model = variant_of(served.variant).body_model
        with asyncio.Runner(loop_factory=_loop()) as runner:
            listener = _listen(found.host, found.port, found.uds)
            port = 0 if found.uds else listener.getsockname()[1]
            at = Endpoint(found.host, port, key, found.uds)
            return runner.run(serve(served, model, at, listener))
    except EngineryError as error:
        say(error.message)
    except OSError as error:
        say(f"cannot listen on {found.uds or f'{found.host}:{found.port}'}: {error.strerror}")
    return 1


async def serve(served: Served, model: str, at: Endpoint, listener: socket.socket) -> int:
    """Start the core and serve it on ``listener``; returns the exit code."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = AsyncMPClient(served.config())  # it loads while we import
    from aiohttp import web

    from enginery.coreserver.app import CoreApp

    core = CoreApp(client, model, at.api_key)
    runner = web.AppRunner(
        core.application(),
        handle_signals=False,
        handler_cancellation=True,  # a client that leaves frees its slot
        access_log=None,
        shutdown_timeout=LAST_WORDS,
    )
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    say(f"listening on {at.base_url}")
    work = asyncio.create_task(_work(core, client, model))
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    died = work.done()
    await client.shutdown_async(CORE_END)  # every request gets its end
    await runner.cleanup()
    stop.cancel()
    await asyncio.wait({work, stop})
    error = work.exception()
    if not died:
        return 0
    say(error.message if isinstance(error, EngineryError) else repr(error))
    return 1


async def _work(core: CoreApp, client: AsyncMPClient, model: str) -> None:
    """Wait for the model, then deliver until the core's end, of which this raises."""
    await client.check_health_async()
    core.ready = True
    slots = client.capabilities.max_num_seqs
    say(f"ready: model {model!r}, {slots} {'slot' if slots == 1 else 'slots'}")
    await core.delivery.run()


def _loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _listen(host: str, port: int, uds: str | None) -> socket.socket:
    """A bound socket. The file of a unix socket stays, as with most engines."""
    if uds is not None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(uds)
        return listener
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def say(text: str) -> None:
    """One line on stdout, which becomes the engine's log."""
    print(f"enginery-coreserver: {text}", flush=True)  # noqa: T201  # a program


if __name__ == "__main__":
    sys.exit(main())
