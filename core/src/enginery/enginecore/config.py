"""`ClientConfig`: which backend a core runs, and how; and the one place that makes a backend of it.

Knows: the settings, their ranges, and how a factory is found and called. Does not know: plugins, settings files, or
how the configuration reaches a child (as plain values in the first frame, never in argv).
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from enginery.enginecore.backend import Backend
from enginery.errors import ConfigError

__all__ = ["ClientConfig", "load_backend"]


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client's core runs.

    Args:
        backend: ``"package.module:factory"``, imported and called in the core's process; or, for
            `InprocClient` alone, the factory itself. It returns a `Backend`.
        options: keyword arguments of the factory: plain values (JSON), for they may travel.
        max_batch_size: requests that run at once; at least 1.
        max_tokens: tokens that one step computes at most, prompts and replies together; at least 1.
        timeout_s: seconds that a call waits for its answer, and `get_output` for an output, unless
            told otherwise; above 0.
        log_stats: the core counts, and tells with its outputs every second or so.
        seed: makes the sampling of all requests without a seed of their own repeatable.
        start_timeout_s: seconds from the start of a child until its model is loaded; above 0.

    ``max_batch_size``, ``max_tokens`` and ``seed`` are handed to a factory that has parameters of these
    names, unless ``options`` has them. Raises `ConfigError`, naming the field.
    """

    backend: str | Callable[..., Backend] = "enginery.enginecore.mock:create_backend"
    options: Mapping[str, Any] = field(default_factory=dict)
    max_batch_size: int = 32
    max_tokens: int = 4096
    timeout_s: float = 60.0
    log_stats: bool = True
    seed: int = 0
    start_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"{name} must be a whole number from 1, got {value!r}", param=name
                )
        for name in ("timeout_s", "start_timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{name} must be above 0 seconds, got {value!r}", param=name)
        if isinstance(self.backend, str) and not all(self.backend.partition(":")):
            raise ConfigError(
                f'backend must be "package.module:factory", got {self.backend!r}', param="backend"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a child. Raises `ConfigError` for a callable backend: it cannot travel."""
        if not isinstance(self.backend, str):
            raise ConfigError(
                'a core in a process of its own needs its backend as "package.module:factory"; '
                "only InprocClient takes a callable",
                param="backend",
            )
        return {**asdict(self), "options": dict(self.options)}

    @staticmethod
    def module_path() -> list[str]:
        """Where this process finds modules, so that its child finds the same."""
        return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  # Path() costs an import in the child


def load_backend(config: ClientConfig) -> Backend:
    """Find the factory and call it. Raises `ConfigError` when there is none, and what the factory raises."""
    factory = config.backend if callable(config.backend) else _found(config.backend)
    takes = inspect.signature(factory).parameters
    given = {
        name: getattr(config, name)
        for name in ("max_batch_size", "max_tokens", "seed")
        if name in takes
    }
    backend: Backend = factory(**{**given, **config.options})
    return backend


def _found(path: str) -> Callable[..., Backend]:
    module, _, name = path.partition(":")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and what it imports is not
        raise ConfigError(
            f"backend {path!r}: there is no module {error.name}", param="backend"
        ) from error
    factory = getattr(found, name, None)
    if not callable(factory):
        raise ConfigError(f"backend {path!r}: {module} has no function {name}", param="backend")
    return factory  # type: ignore[no-any-return]  # what it returns is the protocol's to say
