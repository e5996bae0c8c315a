"""This machine, as if it did not say who listens: macOS, or an engine that hides its descriptors."""

from __future__ import annotations

from typing import Any

from enginery.engine.launchers import EngineHandle, LocalLauncher
from enginery.values import Endpoint, Variant

__all__ = ["BlindLauncher"]


class _BlindHandle:
    def __init__(self, handle: EngineHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    async def owns(self, endpoint: Endpoint) -> bool | None:
        return None


class BlindLauncher(LocalLauncher):
    """Real engines of which nobody knows what they own; ``ports`` are handed out first."""

    def __init__(self, *ports: Endpoint) -> None:
        super().__init__()
        self.ports = list(ports)
        self.reserved: list[Endpoint] = []

    async def reserve(self, variant: Variant) -> Endpoint:
        endpoint = self.ports.pop(0) if self.ports else await super().reserve(variant)
        self.reserved.append(endpoint)
        return endpoint

    async def launch(self, *args: Any) -> Any:
        return _BlindHandle(await super().launch(*args))
