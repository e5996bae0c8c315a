"""`LocalLauncher` over real processes: the folder that an engine may have of its own."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from enginery.engine.launchers import LocalLauncher
from enginery.engine.sockets import SocketDirectory
from enginery.errors import EngineStartFailed
from enginery.values import Command, Endpoint, StopPlan

pytestmark = pytest.mark.both_loops

NAME = "FAKE_SOCKETS"
HERE = Endpoint("127.0.0.1", 1)
LEAVES = f"""
import os, socket, time
folder = os.environ.get("{NAME}")
if folder:
    socket.socket(socket.AF_UNIX).bind(folder + "/12345678-1234-1234-1234-123456789012")
print("folder", folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent():
    """Where folders are made; nothing is left of them after each test."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)
        assert list(Path(directory).iterdir()) == []


@pytest.fixture
def launcher(parent):
    launcher = LocalLauncher(sockets=SocketDirectory(str(parent)))
    yield launcher
    launcher.close()


def command(**fields) -> Command:
    return Command([sys.executable, "-I", "-S", "-c", LEAVES], folder_variable=NAME, **fields)


def names_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def exists(folder: str) -> bool:
    return Path(folder).exists()


async def started(launcher, command, eventually):
    """The handle, and the folder that the engine says it has."""
    handle = await launcher.launch(command, HERE, "fake", lambda _: None)
    await eventually(lambda: handle.log_tail() != [])
    return handle, handle.log_tail()[0].removeprefix("folder ")


@pytest.mark.parametrize("killed", [False, True])
async def test_a_folder_goes_with_its_engine_however_that_ends(
    launcher, parent, eventually, killed
) -> None:
    handle, folder = await started(launcher, command(), eventually)
    assert Path(folder).is_relative_to(parent)
    assert names_in(folder) == ["12345678-1234-1234-1234-123456789012"]
    if killed:
        os.kill(handle.pid, signal.SIGKILL)
        await handle.gone()
        assert not exists(folder)
    await handle.stop(StopPlan())  # of a dead one, too: its guardian is reaped
    assert not exists(folder)


async def test_two_engines_have_one_each(launcher, eventually) -> None:
    handles, folders = zip(
        *[await started(launcher, command(), eventually) for _ in range(2)], strict=True
    )
    assert len(set(folders)) == 2
    for handle in handles:
        await handle.stop(StopPlan())


async def test_a_users_own_folder_is_left_alone(launcher, parent, eventually) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as own:
        handle, folder = await started(launcher, command(env={NAME: own}), eventually)
        assert folder == own
        await handle.stop(StopPlan())
        assert names_in(own) != []
    assert list(parent.iterdir()) == []


async def test_a_start_that_fails_leaves_none(launcher, parent) -> None:
    nothing = Command(["/nowhere/program"], folder_variable=NAME)
    with pytest.raises(EngineStartFailed):
        await launcher.launch(nothing, HERE, "fake", lambda _: None)
    assert list(parent.glob("*/own-*")) == []
