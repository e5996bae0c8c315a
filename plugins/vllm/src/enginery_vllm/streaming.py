"""`StreamingVllmEngine`: tokens out of a vLLM of this application's own, with the engine started by the first request.

Knows: the configuration, the one instance of a process, and which client runs the engine. Does not know: the ways of
streaming (`enginery.streaming`), or vLLM, which is first imported where the engine runs.

The engine runs in a child by default. In this process (``client="inproc"``) its steps and the application share one
interpreter: beside a thread that computed in Python, the first token of a tiny model took 26 ms instead of 3, and each
further one 10 instead of 1.1. A crash of vLLM is then the application's, and it sets seeds, threads and logging for all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import pydantic

from enginery import ConfigError, Variant
from enginery.enginecore import ClientConfig, EngineCoreClient, create_client
from enginery.enginecore.served import plain
from enginery.streaming import StreamingConfig, StreamingEngine
from enginery_vllm.lazy_source import LazySource
from enginery_vllm.options import VllmOptions, options_of
from enginery_vllm.program import is_installed

__all__ = ["StreamingVllmConfig", "StreamingVllmEngine"]


@dataclass(frozen=True, slots=True)
class StreamingVllmConfig:
    """Which model a `StreamingVllmEngine` runs, and how.

    Args:
        model: directory of the model, or its name on a hub.
        context_length: tokens of prompt and reply together; None, as many as the model can.
        parallel: requests that run at once; more wait. At least 1.
        options: the other options of a vLLM variant, as in the settings, such as ``{"dtype": "bfloat16"}``.
        streaming: how tokens are handed over.
        client: ``"sync_mp"``, the engine runs in a child process; ``"inproc"``, in this one.
        start_timeout_s: seconds in which a child must have loaded the model.

    Raises `ConfigError`, naming the field. Two configurations are the same when their values are, after validation.
    """

    model: str
    context_length: int | None = None
    parallel: int = 16
    options: Mapping[str, Any] | VllmOptions = field(default_factory=dict)
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    client: Literal["sync_mp", "inproc"] = "sync_mp"
    start_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("model must be a directory or a name, it is empty", param="model")
        for name, value in (("context_length", self.context_length), ("parallel", self.parallel)):
            if value is None and name == "context_length":
                continue
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"{name} must be a whole number from 1, got {value!r}", param=name
                )
        if self.client not in {"sync_mp", "inproc"}:
            raise ConfigError(
                f'client must be "sync_mp" or "inproc", got {self.client!r}', param="client"
            )
        try:
            given = options_of(self.options).model_dump(exclude_unset=True)
            if given.get("model", self.model) != self.model:
                raise ConfigError("options: the model has a field of its own", param="options")
            checked = VllmOptions.model_validate({**given, "model": self.model, "in_process": True})
        except (pydantic.ValidationError, TypeError) as error:
            raise ConfigError(f"options: {error}", param="options") from error
        object.__setattr__(self, "options", checked)

    def client_config(self) -> ClientConfig:
        """For the client that starts the engine."""
        variant = Variant(
            self.model,
            engine_type="vllm",
            context_length=self.context_length,
            parallel=self.parallel,
            options=self.options,
        )
        return ClientConfig(
            backend="enginery_vllm.backend:create_backend",
            options={"variant": plain(variant)},
            start_timeout_s=self.start_timeout_s,
        )


class StreamingVllmEngine(StreamingEngine):
    """A `StreamingEngine` with a vLLM of its own, loaded by the first request, ended by `shutdown`.

    `generate_stream` and the others return before the model is there; its tokens, or why it did not load, come out of the
    stream. A start that failed, and an engine that died, stay so: `shutdown`, and make a new one.

    Args:
        config: the model, and how it runs.

    Raises `ConfigError`.
    """

    _instance: ClassVar[StreamingVllmEngine | None] = None
    _instances: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, config: StreamingVllmConfig) -> None:
        self.vllm_config = config
        self._lazy = LazySource(self._make_client, is_installed)
        super().__init__(self._lazy, config.streaming)

    @classmethod
    def get_instance(cls, config: StreamingVllmConfig | None = None) -> Self:
        """The one engine of this process, made by the first call; None is for later calls.

        Raises `ConfigError` for another configuration than that of the instance, which is not ended behind the back of
        those who use it: `shutdown` it first. And for None where there is no instance. Waits for a shutdown under way.
        """
        with cls._instances:
            held = StreamingVllmEngine._instance
            if isinstance(held, cls):
                if config is not None and config != held.vllm_config:
                    raise ConfigError(
                        "this process has a StreamingVllmEngine with another configuration"
                        f" ({_difference(held.vllm_config, config)}); shut it down first",
                        param="config",
                    )
                return held
            if config is None:
                raise ConfigError("the first call needs a configuration", param="config")
            made = cls(config)
            StreamingVllmEngine._instance = made
            return made

    @property
    def is_initialized(self) -> bool:
        """True once the model is loaded."""
        return self._lazy.is_initialized

    def preload(self) -> None:
        """Begin to load the model now instead of with the first request. Returns at once."""
        self._lazy.preload()

    def shutdown(self) -> None:
        """Abort what is unfinished and end the engine, with its process. Idempotent.

        Readers get what is buffered, then the end, with ``finish_reason`` ``abort``. An engine that is still loading
        is not waited for.
        """
        with self._instances:  # a successor has the memory for itself
            super().shutdown()
            if StreamingVllmEngine._instance is self:
                StreamingVllmEngine._instance = None

    async def shutdown_async(self) -> None:
        """`shutdown` without blocking the event loop."""
        await asyncio.to_thread(self.shutdown)

    def _make_client(self) -> EngineCoreClient:
        return create_client(self.vllm_config.client, self.vllm_config.client_config())


def _difference(held: StreamingVllmConfig, wanted: StreamingVllmConfig) -> str:
    names = [
        name
        for name in StreamingVllmConfig.__dataclass_fields__
        if getattr(held, name) != getattr(wanted, name)
    ]
    return "other " + ", ".join(names)
