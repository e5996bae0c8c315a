"""From a variant to the command line of vLLM's server.

Knows: the flags, and what vLLM does with them. Does not know: how processes are started. Pure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from enginery import Command, Endpoint, EngineStartFailed, Variant
from enginery_vllm.options import VllmOptions, options_of

__all__ = ["build_command", "engine_flags"]


def build_command(variant: Variant, endpoint: Endpoint) -> Command:
    """The command that serves ``variant`` at ``endpoint``."""
    options = options_of(variant.options)
    return Command(
        argv=(
            sys.executable,
            *("-m", "vllm.entrypoints.openai.api_server", *engine_flags(variant, options)),
            *("--host", endpoint.host, "--port", str(endpoint.port)),
        ),
    )


def engine_flags(variant: Variant, options: VllmOptions) -> Sequence[str]:
    """The flags that say how the model runs: the server's and, read by vLLM's own parser, those in process.

    Nothing of HTTP is among them: no address, key, served name or parser of tool calls.

    Raises:
        EngineStartFailed: there is no model.
    """
    if options.model is None:
        raise EngineStartFailed(
            f"{variant.id}: options.model is missing; set it to a model's directory",
            param="options.model",
        )
    flags = ["--model", options.model]
    if variant.context_length is not None:
        flags += ["--max-model-len", str(variant.context_length)]
    flags += ["--max-num-seqs", str(variant.parallel)]
    return flags
