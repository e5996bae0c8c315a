"""What is measured of this machine, and what a driver that misbehaves does to it."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

from enginery.engine.memory import LocalMemory, NvmlProbe, RamProbe, activity


class FakeNvml:
    """Two devices; one process of ours on the second."""

    def nvmlDeviceGetCount(self):  # noqa: N802  # NVML's names
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, device):  # noqa: N802
        return SimpleNamespace(free=(device + 1) * 2**30)

    def nvmlDeviceGetComputeRunningProcesses(self, device):  # noqa: N802
        foreign = SimpleNamespace(pid=1, usedGpuMemory=7)
        unknown = SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)
        ours = SimpleNamespace(pid=os.getpid(), usedGpuMemory=2**29)
        return [foreign, unknown, ours] if device == 1 else [foreign]


class BrokenProbe:
    def free(self):
        raise OSError("driver gone")

    def held_by(self, pids):
        raise OSError("driver gone")


def test_this_machine_has_some_memory_left_and_this_process_holds_some():
    memory = LocalMemory([RamProbe()])
    assert memory.free()["ram"] > 2**20
    assert memory.held_by_tree(os.getpid())["ram"] > 2**20


def test_the_memory_of_children_counts():
    code = "data = bytearray(64 * 2**20); print(); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"\n"
        alone = RamProbe().held_by([os.getpid()])["ram"]
        together = LocalMemory([RamProbe()]).held_by_tree(os.getpid())["ram"]
        assert together - alone >= 64 * 2**20
    finally:
        child.communicate()


def test_nvidia_devices_are_counted_by_the_driver_and_only_our_processes_are_ours():
    probe = NvmlProbe(FakeNvml())
    assert probe.free() == {"gpu0": 2**30, "gpu1": 2 * 2**30}
    assert probe.held_by([os.getpid()]) == {"gpu1": 2**29}


def test_a_probe_that_fails_leaves_the_others():
    memory = LocalMemory([BrokenProbe(), NvmlProbe(FakeNvml())])
    assert memory.free() == {"gpu0": 2**30, "gpu1": 2 * 2**30}
    assert memory.held_by_tree(os.getpid()) == {"gpu1": 2**29}


def test_a_process_that_takes_memory_shows_signs_of_life_and_one_that_waits_shows_none():
    code = "input(); data = bytearray(64 * 2**20); print(); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        while activity(child.pid) != (before := activity(child.pid)):
            pass
        assert activity(child.pid) == before
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "\n"
        assert activity(child.pid) != before
    finally:
        child.communicate("\n")


def test_a_process_that_is_gone_holds_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert activity(child.pid) == (0, 0)
    assert RamProbe().held_by([child.pid]) == {"ram": 0}
