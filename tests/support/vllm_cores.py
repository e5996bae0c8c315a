"""Backends around real vLLM for engine cores in children, which fail as no test can make the real one fail."""

from __future__ import annotations

from typing import Any

from enginery_vllm.backend import VllmBackend, create_backend


def failing(variant: Any, at_step: int) -> VllmBackend:
    """Its model runner raises in a later step, as it does when a device is lost."""
    backend = create_backend(variant)
    executor = backend._core.model_executor
    real, steps = executor.execute_model, 0

    def execute_model(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps >= at_step:
            raise RuntimeError("the device is lost")
        return real(*args, **kwargs)

    executor.execute_model = execute_model
    return backend
