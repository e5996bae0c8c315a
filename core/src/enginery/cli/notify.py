"""Telling systemd how the service is: ``Type=notify`` and ``WatchdogSec``.

Knows: the protocol of ``sd_notify(3)``: datagrams to the socket that ``$NOTIFY_SOCKET`` names. Does not know: what
is ready. Without that variable nothing is sent. A supervisor that does not listen is no reason to fail.

The watchdog is fed from the event loop, so what it watches is that the loop turns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress

__all__ = ["Notifier"]

log = logging.getLogger("enginery.cli")


class Notifier:
    """One service's line to its supervisor.

    Args:
        address: the socket's path, or ``@`` and an abstract name; None: nobody wants to know.
        watchdog: seconds within which the supervisor wants a sign of life; None: it does not.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        """As ``environ`` says, whose variables are taken away: engines are not to speak for us."""
        address = environ.pop("NOTIFY_SOCKET", None)
        pid, usec = environ.pop("WATCHDOG_PID", ""), environ.pop("WATCHDOG_USEC", "")
        mine = pid in {"", str(os.getpid())}
        valid = mine and usec.isdecimal() and int(usec) > 0
        return cls(address or None, int(usec) / 1e6 if valid else None)

    def ready(self, status: str) -> None:
        """It serves, or serves again after `reloading`; ``status`` is one line for ``systemctl status``."""
        self._send("READY=1", f"STATUS={' '.join(status.split())}")

    def reloading(self) -> None:
        """The settings are read anew; `ready` follows, whether they were good or not."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It takes no more requests."""
        self._send("STOPPING=1", "STATUS=open requests may finish")

    @asynccontextmanager
    async def serving(self, status: str) -> AsyncIterator[None]:
        """`ready` at the start, signs of life while inside, `stopping` at the end."""
        self.ready(status)
        feeding = asyncio.create_task(self._feed(), name="watchdog")
        try:
            yield
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding
            self.stopping()

    async def _feed(self) -> None:
        while self._address is not None and self.watchdog is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):  # Linux's abstract sockets
            address = f"\0{address[1:]}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.connect(address)
                line.send("\n".join(lines).encode())
        except OSError as error:
            log.warning(
                "the supervisor at %s cannot be told %s: %s", self._address, lines[0], error
            )
