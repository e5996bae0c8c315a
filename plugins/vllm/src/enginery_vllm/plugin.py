"""The hooks: what Enginery asks about vLLM, answered by the modules beside this one.

Knows: which module answers which hook. Does not know: the answers.
"""

from __future__ import annotations

import pydantic

from enginery import Backend, Command, Endpoint, Variant, hookimpl
from enginery_vllm.command import build_command
from enginery_vllm.options import VllmOptions, options_of
from enginery_vllm.program import find_python

__all__ = ["API_VERSION", "VllmPlugin"]

API_VERSION = (1, 0)


class VllmPlugin:
    """vLLM's OpenAI server as an engine, or vLLM in process: engine_type ``vllm``."""

    API_VERSION = API_VERSION

    @hookimpl
    def variant_options(self) -> type[pydantic.BaseModel]:
        """See `VllmOptions`."""
        return VllmOptions

    @hookimpl
    def build_command(self, variant: Variant, endpoint: Endpoint) -> Command | None:
        """A server of vLLM's own; none in process."""
        if options_of(variant.options).in_process:
            return None
        return build_command(variant, endpoint, find_python(variant))

    @hookimpl
    def create_backend(self, variant: Variant) -> Backend:
        """An engine of vLLM's in this process."""
        from enginery_vllm.backend import VllmBackend

        return VllmBackend(variant)
