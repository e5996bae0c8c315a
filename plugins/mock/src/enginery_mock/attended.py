"""The mock server for a parent that may be killed: ``python -m enginery_mock.attended [FLAGS]``.

Knows: that stdin closes when the parent is gone, however it went; then this process ends at once. Does
not know: the server, which takes the same flags as ever (`server`).
"""

from __future__ import annotations

import os
import sys
import threading

from enginery_mock.server import main

__all__: list[str] = []


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # also where the mock was told to ignore signals


if __name__ == "__main__":
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.exit(main())
