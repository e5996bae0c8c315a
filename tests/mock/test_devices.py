from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from enginery_mock.devices import Ledger, used
from enginery_mock.flags import DEVICES_VARIABLE


@pytest.fixture
def devices(tmp_path: Path) -> dict[str, str]:
    return {DEVICES_VARIABLE: str(tmp_path / "devices")}


def test_what_runs_is_summed_by_device_and_gone_after_a_kill(
    start: Any, devices: dict[str, str]
) -> None:
    directory = devices[DEVICES_VARIABLE]
    assert used(directory) == {}
    one = start("--memory", "gpu0=5,ram=2", "--load-ms", "60000", env=devices)
    two = start("--memory", "gpu0=7", env=devices)
    start(env=devices)
    assert used(directory) == {"gpu0": 12, "ram": 2}
    two.process.kill()
    two.process.wait()
    assert used(directory) == {"gpu0": 5, "ram": 2}
    one.process.terminate()
    one.process.wait()
    assert used(directory) == {}
    assert list(Path(directory).iterdir()) == []


def test_a_zombie_uses_nothing(start: Any, devices: dict[str, str]) -> None:
    mock = start("--memory", "gpu0=5", env=devices)
    mock.process.kill()
    mock.process.stdout.read()  # to its end: the process is ending, and nobody has waited for it
    while psutil.Process(mock.process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    assert used(devices[DEVICES_VARIABLE]) == {}


@pytest.mark.parametrize("left", ["pipes", "setsid"])
def test_a_grandchild_left_behind_holds_no_memory(
    start: Any, devices: dict[str, str], left: str
) -> None:
    mock = start("--memory", "gpu0=5", "--fork-grandchild", left, "--hold-port", "9", env=devices)
    mock.process.terminate()
    mock.line("holder")
    mock.process.wait()
    assert used(devices[DEVICES_VARIABLE]) == {}


async def test_memory_may_come_back_late_counted_from_the_first_look(
    start: Any, devices: dict[str, str], eventually: Any
) -> None:
    directory = devices[DEVICES_VARIABLE]
    mock = start("--memory", "gpu0=5", "--memory-late-ms", "100", env=devices)
    mock.kill()
    began = time.monotonic()
    assert used(directory) == {"gpu0": 5}
    await eventually(lambda: used(directory) == {})
    assert time.monotonic() - began >= 0.1


def test_a_process_may_change_what_it_uses_while_others_read(tmp_path: Path) -> None:
    ledger, seen, done = Ledger(str(tmp_path)), set(), threading.Event()
    ledger.hold({"gpu0": 1})

    def read() -> None:
        while not done.is_set():
            seen.add(json.dumps(used(tmp_path)))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for size in range(1, 100):
        ledger.hold({"gpu0": size % 2 + 1})
    done.set()
    for reader in readers:
        reader.join()
    assert seen <= {'{"gpu0": 1}', '{"gpu0": 2}'}
    ledger.close()
    assert used(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_without_a_directory_nothing_is_written(tmp_path: Path, start: Any) -> None:
    Ledger(None).hold({"gpu0": 1})
    assert used(tmp_path / "nowhere") == {}
