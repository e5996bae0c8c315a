"""Memory and activity of this machine: what is free, what an engine holds, whether it does anything.

Knows: RAM by psutil, NVIDIA devices by NVML where ``nvidia-ml-py`` is installed (extra ``enginery[gpu]``). Does
not know: budgets or engines. Devices are ``ram`` and ``gpu0``, ``gpu1``, ... in NVML's order. Nothing here
raises: what cannot be measured is absent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import psutil

from enginery.engine.guardian import descendants

__all__ = ["LocalMemory", "MemoryProbe", "activity"]

log = logging.getLogger("enginery.engine")

RSS_STEP = 16 * 2**20
"""Resident memory counts as a sign of life in steps: a page more or less says nothing."""


class MemoryProbe(Protocol):
    """One kind of device."""

    def free(self) -> dict[str, int]:
        """Free bytes per device."""
        ...

    def held_by(self, pids: Iterable[int]) -> dict[str, int]:
        """Bytes per device that these processes hold; a device that cannot tell is absent."""
        ...


class RamProbe:
    """The machine's main memory."""

    def free(self) -> dict[str, int]:
        """What can be had without swapping."""
        return {"ram": int(psutil.virtual_memory().available)}

    def held_by(self, pids: Iterable[int]) -> dict[str, int]:
        """Resident set sizes; pages that processes share count for each."""
        total = 0
        for pid in pids:
            try:
                total += int(psutil.Process(pid).memory_info().rss)
            except psutil.Error:
                continue
        return {"ram": total}


class NvmlProbe:
    """NVIDIA devices.

    Args:
        nvml: the ``pynvml`` module, initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    @classmethod
    def find(cls) -> NvmlProbe | None:
        """The probe, or None where there is no library, no driver or no device."""
        try:
            import pynvml  # type: ignore[import-not-found,unused-ignore]  # the optional extra

            pynvml.nvmlInit()
            return cls(pynvml) if pynvml.nvmlDeviceGetCount() else None
        except Exception as error:  # noqa: BLE001  # NVML has an error class for every mishap
            log.debug("no NVML: %s", error)
            return None

    def free(self) -> dict[str, int]:
        """As the driver counts it."""
        return {
            name: int(self._nvml.nvmlDeviceGetMemoryInfo(device).free)
            for name, device in self._devices()
        }

    def held_by(self, pids: Iterable[int]) -> dict[str, int]:
        """Needs the driver to see our pids: in most containers it does not, and tells nothing."""
        wanted, found = set(pids), dict[str, int]()
        for name, device in self._devices():
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.pid in wanted and process.usedGpuMemory is not None:
                    found[name] = found.get(name, 0) + int(process.usedGpuMemory)
        return found

    def _devices(self) -> list[tuple[str, Any]]:
        count = self._nvml.nvmlDeviceGetCount()
        return [(f"gpu{i}", self._nvml.nvmlDeviceGetHandleByIndex(i)) for i in range(count)]


class LocalMemory:
    """Everything on this machine.

    Args:
        probes: default: RAM, and NVML where there is any.
    """

    def __init__(self, probes: Iterable[MemoryProbe] | None = None) -> None:
        if probes is None:
            nvml = NvmlProbe.find()
            probes = [RamProbe(), *([nvml] if nvml is not None else [])]
        self._probes = tuple(probes)

    def free(self) -> Mapping[str, int]:
        """Free bytes per device."""
        return self._merged(probe.free for probe in self._probes)

    def held_by_tree(self, pid: int) -> Mapping[str, int]:
        """Bytes per device of a process and its descendants."""
        pids = (pid, *descendants(pid))
        return self._merged(lambda probe=probe: probe.held_by(pids) for probe in self._probes)

    @staticmethod
    def _merged(calls: Iterable[Any]) -> Mapping[str, int]:
        merged: dict[str, int] = {}
        for call in calls:
            try:
                merged |= call()
            except Exception as error:  # noqa: BLE001  # a driver that fails must not stop engines
                log.debug("memory cannot be measured: %s", error)
        return merged


def activity(pid: int) -> tuple[int, int]:
    """A value that changes while a process tree loads: bytes read from disk, resident memory."""
    read = resident = 0
    for process in (pid, *descendants(pid)):
        try:
            one = psutil.Process(process)
            resident += int(one.memory_info().rss)
            read += int(one.io_counters().read_bytes) if hasattr(one, "io_counters") else 0
        except psutil.Error:
            continue
    return read, resident // RSS_STEP
