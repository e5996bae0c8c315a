"""From a variant to llama-server's command line.

Knows: the flags, and what llama.cpp does with them. Does not know: which program is run (`binary`)
or how processes are started. Pure: a variant, an endpoint and a program in, a command out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from signal import SIGTERM

from enginery import Command, Endpoint, EngineStartFailed, StopPlan, Variant
from enginery_llamacpp.options import LlamaCppOptions, options_of

__all__ = ["API_KEY_VARIABLE", "STOP_PLAN", "build_command", "flags_of"]

API_KEY_VARIABLE = "LLAMA_API_KEY"

STOP_PLAN = StopPlan(signals=((int(SIGTERM), 1.0), (int(SIGTERM), 4.0)), kill_after=2.0)
"""With a request in flight, llama-server takes the first SIGTERM, stops decoding and then waits for
the client without end; the second one ends it in 35 ms. Two at once would count as one."""

READY_HINT = r"listening on (http://|unix:|/)"

SLOT_ROUNDING = 256
"""llama.cpp rounds the context of each slot up to a multiple of this, which is also the least."""

UNKNOWN_CONTEXT_BATCH = 8192
"""Batch for embeddings when the context length is the model's own; llama.cpp caps it to that."""


def build_command(variant: Variant, endpoint: Endpoint, program: Sequence[str]) -> Command:
    """The command that serves ``variant`` at ``endpoint``.

    Args:
        variant: its options say which model and how.
        endpoint: where to listen; its key goes into the environment, which other users of the
            machine cannot read, never onto the command line, which they can.
        program: the first words, from `binary.find_program`.

    Raises:
        EngineStartFailed: the options name no model; llama.cpp would start as a router instead.
    """
    options = options_of(variant.options)
    whole_line_given = variant.binary is not None and bool(variant.args)
    if not options.names_model and not whole_line_given:
        raise EngineStartFailed(
            f"{variant.id}: options.model is missing; set it to the path of a GGUF file",
            param="options.model",
        )
    env = {} if endpoint.api_key is None else {API_KEY_VARIABLE: endpoint.api_key}
    return Command(
        argv=(*program, *flags_of(variant, options, endpoint)),
        env=env,
        cwd=variant.work_dir,
        health_path="/health",
        ready_hint=READY_HINT,
        stop_plan=STOP_PLAN,
        log_level="info",  # llama.cpp prints everything to stderr, also that all is well
    )


def flags_of(variant: Variant, options: LlamaCppOptions, endpoint: Endpoint) -> Iterator[str]:
    """llama-server's flags for ``variant`` at ``endpoint``."""
    if options.model is not None:
        yield from ("--model", options.model)
    yield from ("--host", endpoint.unix_path or endpoint.host, "--port", str(endpoint.port))
    if variant.model:
        yield from ("--alias", variant.model)
    # Without -np llama.cpp makes four slots over one shared cache: two requests that fit each by
    # itself then end each other in the middle.
    yield from ("-np", str(variant.parallel))
    if variant.context_length is not None:
        # -c is the sum over the slots. Without it, each slot gets what the model was trained for.
        yield from ("-c", str(variant.context_length * variant.parallel))
    if options.threads is not None:
        yield from ("--threads", str(options.threads))
    if options.gpu_layers is not None:
        yield from ("--gpu-layers", str(options.gpu_layers))
    if options.embedding or options.reranking:
        # An input longer than the physical batch is answered with a 500, so a batch holds a context.
        batch = str(_embedding_batch(variant.context_length))
        yield from ("-b", batch, "-ub", batch)
    if options.embedding:
        yield "--embedding"
    if options.reranking:
        yield "--reranking"
    yield from options.extra_args


def _embedding_batch(context_length: int | None) -> int:
    if context_length is None:
        return UNKNOWN_CONTEXT_BATCH
    return -(-context_length // SLOT_ROUNDING) * SLOT_ROUNDING
