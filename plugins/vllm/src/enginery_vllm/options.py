"""The options of a vLLM variant, as they stand in the settings file.

Knows: names, bounds and what they mean to vLLM. Does not know: the command line (`command`) or the engine's arguments
(`backend`) that they become. What every engine has (context length, parallel requests, environment) belongs to the
variant. The names are those of vLLM's flags, but for sizes, which say their unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["GIB", "VllmOptions", "options_of"]

GIB = 2**30

_ADDRESS = "the framework chooses the address"
_SERVED = "put it on the gateway"
_CHOSEN_ELSEWHERE = {
    **dict.fromkeys(("--model", "--model-tag"), "set options.model"),
    "--served-model-name": "the model's name is passed on",
    "--max-model-len": "set the variant's context_length",
    "--max-num-seqs": "set the variant's parallel",
    "--runner": "set options.runner",
    "--enable-sleep-mode": "set options.sleep",
    **dict.fromkeys(("--host", "--port", "--uds", "--headless"), _ADDRESS),
    "--api-key": "each start gets a key of its own",
    **dict.fromkeys(("--root-path", "--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs"), _SERVED),
}
"""Flags that would make the server differ from what the framework believes it started."""

_OF_THE_SERVER = ("python", "enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "chat_template")  # fmt: skip


class VllmOptions(BaseModel):
    """How vLLM runs one variant; see ``vllm serve --help`` for the flags behind the names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        default=None,
        min_length=1,
        description="Directory of the model, or its name on a hub. Needed to start a server, not to attach "
        "to one by `url`.",
    )
    tokenizer: str | None = Field(
        default=None,
        min_length=1,
        description="Directory or name of a tokenizer, if not the model's own.",
    )
    revision: str | None = Field(
        default=None, min_length=1, description="Branch, tag or commit of a model from a hub."
    )
    load_format: str | None = Field(
        default=None,
        min_length=1,
        description="Format of the weights, such as `safetensors` or `dummy`.",
    )
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = Field(
        default=None,
        description="Type of weights and activations. None is `auto`, the model's own.",
    )
    quantization: str | None = Field(
        default=None,
        min_length=1,
        description="How the weights are quantised, if the model does not say.",
    )
    runner: Literal["auto", "generate", "pooling"] | None = Field(
        default=None,
        description="`pooling` makes vectors, scores and classes, the others text. None leaves it to "
        "vLLM; the framework then takes the model for one that generates.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that comes with the model."
    )
    tensor_parallel_size: int | None = Field(
        default=None, ge=1, description="Devices that each layer is split over."
    )
    pipeline_parallel_size: int | None = Field(
        default=None, ge=1, description="Groups of devices that the layers are spread over."
    )
    gpu_memory_utilization: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the device's memory that vLLM takes for itself. None is vLLM's own choice, "
        "about nine tenths: two engines on one device need less each.",
    )
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="Size of the KV cache of each device, or of the CPU, in GiB, instead of what "
        "`gpu_memory_utilization` leaves. On a CPU, `VLLM_CPU_KVCACHE_SPACE` in the environment wins.",
    )
    kv_cache_dtype: str | None = Field(
        default=None,
        min_length=1,
        description="Type of the KV cache, such as `fp8`. None is `auto`.",
    )
    cpu_offload_gib: float | None = Field(
        default=None,
        gt=0,
        description="GiB of weights for each device that stay in the machine's memory.",
    )
    max_num_batched_tokens: int | None = Field(
        default=None, ge=1, description="Tokens that one step works on, of all requests together."
    )
    max_num_queued_reqs: int | None = Field(
        default=None,
        ge=1,
        description="Requests that may wait inside vLLM, each of `n` for itself; more get 503. None: without bound, which "
        "is no harm: the gateway sends no more than `parallel` at once.",
    )
    enforce_eager: bool = Field(
        default=False,
        description="Do not compile nor capture graphs: starts much sooner, generates more slowly.",
    )
    enable_prefix_caching: bool | None = Field(
        default=None,
        description="Keep the KV cache of prompts' beginnings. None is vLLM's own choice.",
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Start of the random numbers. None is vLLM's, 0."
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="File with a chat template, instead of the tokenizer's.",
    )
    enable_auto_tool_choice: bool = Field(
        default=False,
        description="Let the model decide by itself to call a tool; needs `tool_call_parser`.",
    )
    tool_call_parser: str | None = Field(
        default=None, min_length=1, description="How the model writes tool calls, such as `hermes`."
    )
    reasoning_parser: str | None = Field(
        default=None,
        min_length=1,
        description="How the model writes its thoughts, such as `qwen3`.",
    )
    sleep: bool | Literal["pause"] = Field(
        default=False,
        description="`true`: the engine can sleep at the levels 1 (weights to the machine's memory) and 2 "
        "(weights dropped, and read again on waking), on platforms whose vLLM has sleep mode. `pause`: at "
        "level 0 only, everywhere: it holds requests and keeps its memory. See the plugin's README.",
    )
    python: str | None = Field(
        default=None,
        min_length=1,
        description="The Python that has vLLM, where that is not ours: `/opt/vllm/bin/python`.",
    )
    in_process: bool = Field(
        default=False,
        description="Run vLLM inside an engine core in Python, behind the framework's own server, instead of "
        "starting vLLM's. Chats and completions only.",
    )
    extra_args: tuple[str, ...] = Field(
        default=(),
        description="More flags for vLLM, one word each, put last so that they win.",
    )

    @field_validator("model", "tokenizer", "chat_template", "python")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        # names on a hub stay as they are
        return str(Path(value).expanduser()) if value and value.startswith("~") else value

    @field_validator("extra_args")
    @classmethod
    def _not_chosen_elsewhere(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            # vLLM takes --max_model_len and --max-model-len=8 as well
            flag = word.partition("=")[0].replace("_", "-")
            if flag in _CHOSEN_ELSEWHERE:
                raise ValueError(f"{word} does not belong here: {_CHOSEN_ELSEWHERE[flag]}")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.enable_auto_tool_choice and self.tool_call_parser is None:
            raise ValueError("enable_auto_tool_choice needs tool_call_parser")
        if self.in_process:
            if self.runner == "pooling":
                raise ValueError("in_process generates only: no runner: pooling")
            given = [name for name in _OF_THE_SERVER if getattr(self, name)]
            if given:
                raise ValueError(f"in_process has no {given[0]}: that is vLLM's server's")
            if self.sleep == "pause":
                raise ValueError("in_process has level 0 without sleep: pause")
        return self


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
