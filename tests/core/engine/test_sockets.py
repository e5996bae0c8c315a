"""Names for unix sockets, in real directories."""

from __future__ import annotations

import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from enginery.engine.sockets import LONGEST_PATH, SocketDirectory
from enginery.errors import EngineStartFailed

OWNER = """
import sys
from enginery.engine.sockets import SocketDirectory
directory = SocketDirectory(sys.argv[1])
folder = directory.make_folder()
open(folder + "/left", "w").close()
print(directory.reserve("m/default"), flush=True)
sys.stdin.read()
"""


def bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


@pytest.fixture
def parent(tmp_path_factory):
    """A short one: pytest's own directories may be longer than a socket's path."""
    path = Path("/tmp") / f"en-{os.getpid()}-{tmp_path_factory.mktemp('s').name}"
    path.mkdir()
    yield path
    assert list(path.iterdir()) == []
    path.rmdir()


def test_the_directory_is_this_users_alone_and_goes_when_it_is_closed(parent) -> None:
    sockets = SocketDirectory(str(parent))
    assert list(parent.iterdir()) == []
    path = Path(sockets.reserve("m/default"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with bind(str(path)):
        pass
    sockets.close()
    assert not path.parent.exists()


def test_a_name_has_the_same_path_each_time_and_no_other_name_has_it(parent) -> None:
    sockets = SocketDirectory(str(parent))
    first = sockets.reserve("m/default")
    sockets.release(first)
    assert sockets.reserve("m/default") == first
    assert len({sockets.reserve(f"m/{i}") for i in range(50)}) == 50
    sockets.close()


def test_a_file_that_was_left_at_a_name_is_removed(parent) -> None:
    sockets = SocketDirectory(str(parent))
    path = sockets.reserve("m/default")
    for _ in range(2):
        bind(path).close()  # the file stays
        assert Path(path).exists()
        assert sockets.reserve("m/default") == path
        assert not Path(path).exists()
    bind(path).close()
    sockets.release(path)
    assert not Path(path).exists()
    sockets.close()


def test_a_path_that_is_too_long_for_a_socket_is_refused_with_the_way_out(tmp_path) -> None:
    deep = tmp_path / ("x" * LONGEST_PATH)
    deep.mkdir()
    sockets = SocketDirectory(str(deep))
    with pytest.raises(EngineStartFailed, match=f"at most {LONGEST_PATH}: set TMPDIR"):
        sockets.reserve("m/default")
    sockets.close()
    assert list(deep.iterdir()) == []
    deep.rmdir()


def test_a_parent_that_does_not_exist_is_an_error_of_ours(tmp_path) -> None:
    with pytest.raises(EngineStartFailed, match="no place for a unix socket"):
        SocketDirectory(str(tmp_path / "nowhere")).reserve("m/default")


def test_a_folder_is_one_engines_and_goes_with_all_that_is_in_it(parent) -> None:
    sockets = SocketDirectory(str(parent))
    one, other = sockets.make_folder(), sockets.make_folder()
    assert one != other
    assert stat.S_IMODE(Path(one).stat().st_mode) == 0o700
    for folder in (one, other):
        bind(f"{folder}/{uuid.uuid4()}").close()
    (Path(one) / "deeper").mkdir()
    sockets.remove_folder(one)
    assert not Path(one).exists()
    sockets.remove_folder(one)  # a second time does nothing
    sockets.close()  # the other one's engine was never seen to end
    assert not Path(other).exists()


def test_there_is_no_folder_where_a_sockets_path_in_it_would_be_too_long(parent) -> None:
    deep = parent / ("x" * (LONGEST_PATH - len(str(parent)) - 40))
    deep.mkdir()
    sockets = SocketDirectory(str(deep))
    assert sockets.make_folder() is None
    sockets.close()
    assert list(deep.iterdir()) == []
    deep.rmdir()


def test_there_is_no_folder_where_none_can_be_made(tmp_path) -> None:
    assert SocketDirectory(str(tmp_path / "nowhere")).make_folder() is None


def test_the_directory_goes_with_its_owner_object(parent) -> None:
    sockets = SocketDirectory(str(parent))
    sockets.reserve("m/default")
    assert list(parent.iterdir())
    del sockets
    gc.collect()
    assert list(parent.iterdir()) == []


def owner(parent: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OWNER, str(parent)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_an_owner_that_ends_takes_its_directory_along(parent) -> None:
    with owner(parent) as process:
        path = Path(process.stdout.readline().strip())
        assert path.parent.exists()
        process.communicate()
    assert not path.parent.exists()


def test_what_a_killed_owner_left_is_removed_by_the_next_one_and_a_living_owners_stays(
    parent,
) -> None:
    with owner(parent) as dead, owner(parent) as alive:
        abandoned = Path(dead.stdout.readline().strip())
        in_use = Path(alive.stdout.readline().strip())
        bind(str(abandoned)).close()
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert abandoned.exists()
        sockets = SocketDirectory(str(parent))
        sockets.reserve("m/default")
        assert not abandoned.parent.exists()
        assert in_use.parent.exists()
        sockets.close()
        alive.communicate()


def test_nothing_that_others_put_there_is_removed(parent) -> None:
    stranger = parent / "enginery-sockets-mine"
    stranger.mkdir()
    (stranger / "lock").touch()
    (stranger / "thesis.txt").touch()
    sockets = SocketDirectory(str(parent))
    sockets.reserve("m/default")
    sockets.close()
    assert (stranger / "thesis.txt").exists()
    (stranger / "thesis.txt").unlink()
    stranger.rmdir()
