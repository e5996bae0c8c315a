"""The options of a llama.cpp variant, as they stand in the settings file.

Knows: names, bounds and what they mean to llama.cpp. Does not know: the command line that they
become (`command`) or whether a file exists: llama.cpp says that itself within 10 ms. Options that
every engine has (context length, parallel requests, environment) belong to the variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["MODEL_FLAGS", "LlamaCppOptions", "options_of"]

MODEL_FLAGS = frozenset({"-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"})
"""Flags in ``extra_args`` that name a model to download, instead of ``model``."""

_CHOSEN_ELSEWHERE = {
    **dict.fromkeys(("-m", "--model"), "set options.model"),
    **dict.fromkeys(("-a", "--alias"), "the model's name is passed on"),
    **dict.fromkeys(("-c", "--ctx-size"), "set the variant's context_length"),
    **dict.fromkeys(("-np", "--parallel"), "set the variant's parallel"),
    **dict.fromkeys(("--embedding", "--embeddings"), "set options.embedding"),
    **dict.fromkeys(("--rerank", "--reranking"), "set options.reranking"),
    **dict.fromkeys(("--host", "--port"), "the framework chooses the address"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "each start gets a key of its own"),
    **dict.fromkeys(("--api-prefix", "--ssl-key-file", "--ssl-cert-file"), "put it on the gateway"),
}
"""Flags that would make the server differ from what the framework believes it started."""


class LlamaCppOptions(BaseModel):
    """How llama.cpp runs one variant; see ``llama-server --help`` for the flags behind the names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None,
        min_length=1,
        description="Path of the GGUF file; of a split model, its first part. `~` is the home "
        "directory; a relative path counts from the engine's working directory. Needed to start a "
        "server, not to attach to one by `url`.",
    )
    gpu_layers: Annotated[int, Field(ge=0)] | Literal["auto", "all"] | None = Field(
        default=None,
        description="How many layers go to the GPU (`--gpu-layers`): a number, `auto` or `all`. "
        "None leaves it to llama.cpp, which takes as many as fit.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads for generation (`--threads`). None is llama.cpp's own choice. On a "
        "machine shared with others, fewer threads than cores: they wait for each other.",
    )
    embedding: bool = Field(
        default=False,
        description="Serve `/v1/embeddings` (`--embedding`). Needed for embedding models, which "
        "can crash without it.",
    )
    reranking: bool = Field(
        default=False,
        description="Serve `/v1/rerank` (`--reranking`), for models with a ranking head.",
    )
    fold_replies: bool = Field(
        default=True,
        description="Ask llama.cpp for a stream where a client wants one whole reply, and put that "
        "together: it notices that a client has left only while it streams, and would go on to the "
        "end of the reply. `false` saves the gateway that work.",
    )
    in_process: bool = Field(
        default=False,
        description="Run the bundled llama.cpp inside an engine core in Python, behind the framework's own "
        "server, instead of starting a llama-server. Chats and completions only.",
    )
    extra_args: tuple[str, ...] = Field(
        default=(),
        description="More flags for `llama-server`, one word each, put last so that they win.",
    )

    @field_validator("model")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).expanduser())

    @field_validator("extra_args")
    @classmethod
    def _not_chosen_elsewhere(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if word in _CHOSEN_ELSEWHERE:
                raise ValueError(f"{word} does not belong here: {_CHOSEN_ELSEWHERE[word]}")
        return value

    @model_validator(mode="after")
    def _one_kind_of_vectors(self) -> Self:
        # llama.cpp takes both flags, pools for ranking, and answers /v1/embeddings with zeros
        if self.embedding and self.reranking:
            raise ValueError("embedding and reranking exclude each other: make two variants")
        if self.in_process and (self.embedding or self.reranking):
            raise ValueError("in_process has neither embedding nor reranking")
        return self

    @property
    def names_model(self) -> bool:
        """True when a server could be started: a path, or a flag that downloads a model."""
        return self.model is not None or not MODEL_FLAGS.isdisjoint(self.extra_args)


def options_of(options: Any) -> LlamaCppOptions:
    """The typed options of a variant that may carry them as a plain mapping.

    Raises:
        pydantic.ValidationError: an unknown option or a value out of bounds.
    """
    if isinstance(options, LlamaCppOptions):
        return options
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping, got {type(options).__name__}")
    return LlamaCppOptions.model_validate(dict(options))
