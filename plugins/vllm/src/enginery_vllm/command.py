"""From a variant to the command line of vLLM's server.

Knows: the flags, and what vLLM does with them. Does not know: how processes are started. Pure.
"""

from __future__ import annotations

import sys

from enginery import Command, Endpoint, EngineStartFailed, Variant
from enginery_vllm.options import options_of

__all__ = ["build_command"]


def build_command(variant: Variant, endpoint: Endpoint) -> Command:
    """The command that serves ``variant`` at ``endpoint``."""
    options = options_of(variant.options)
    if options.model is None:
        raise EngineStartFailed(
            f"{variant.id}: options.model is missing; set it to a model's directory",
            param="options.model",
        )
    return Command(
        argv=(
            sys.executable,
            *("-m", "vllm.entrypoints.openai.api_server", "--model", options.model),
            *("--host", endpoint.host, "--port", str(endpoint.port)),
        ),
    )
