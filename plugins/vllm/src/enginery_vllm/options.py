"""The options of a vLLM variant, as they stand in the settings file.

Knows: names, bounds and what they mean to vLLM. Does not know: the command line (`command`) or the engine's arguments
(`backend`) that they become. What every engine has (context length, parallel requests, environment) belongs to the
variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["VllmOptions", "options_of"]


class VllmOptions(BaseModel):
    """How vLLM runs one variant; see ``vllm serve --help`` for the flags behind the names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None,
        min_length=1,
        description="Directory of the model, or its name on a hub. Needed to start a server, not to attach "
        "to one by `url`.",
    )
    in_process: bool = Field(
        default=False,
        description="Run vLLM inside an engine core in Python, behind the framework's own server, instead of "
        "starting vLLM's. Chats and completions only.",
    )


def options_of(options: Any) -> VllmOptions:
    """The typed options of a variant that may carry them as a plain mapping.

    Raises:
        pydantic.ValidationError: an unknown option or a value out of bounds.
    """
    if isinstance(options, VllmOptions):
        return options
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping, got {type(options).__name__}")
    return VllmOptions.model_validate(dict(options))
