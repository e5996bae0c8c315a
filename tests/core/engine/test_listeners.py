"""Who listens on a port, asked of the kernel in both ways."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile

import pytest

from enginery.engine.endpoints import free_endpoint
from enginery.engine.listeners import _by_netlink, _by_proc, listener_is_ours, socket_is_ours

LISTENER = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-I", "-S", *sys.argv[1:]]).returncode)
"""


def child(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_nobody_listens_on_a_free_port() -> None:
    assert listener_is_ours(os.getpid(), free_endpoint().port) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_our_own_listener_is_ours_and_not_a_strangers(host) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener, child("-c", LISTENER) as other:
        port = listener.getsockname()[1]
        assert listener_is_ours(os.getpid(), port) is True
        assert listener_is_ours(other.pid, port) is False


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with client, accepted:
        assert listener_is_ours(os.getpid(), client.getpeername()[1]) is None


def test_a_grandchilds_listener_counts_as_its_grandparents() -> None:
    with child("-c", PARENT, "-c", LISTENER, "127.0.0.1", "0") as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert listener_is_ours(parent.pid, port) is True
        assert listener_is_ours(os.getpid(), port) is True
        with child("-c", LISTENER) as stranger:
            assert listener_is_ours(stranger.pid, port) is False
        parent.communicate()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_netlink_and_proc_say_the_same(host) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        inode = os.fstat(listener.fileno()).st_ino
        assert list(_by_proc(port)) == [inode]
        try:
            assert list(_by_netlink(port)) == [inode]
        except OSError as error:
            pytest.skip(f"netlink is refused here: {error}")


UNIX_LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield f"{directory}/x.sock"


def test_nobody_listens_on_a_socket_that_is_not_there_or_was_left_behind(path) -> None:
    assert socket_is_ours(os.getpid(), path) is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
    assert socket_is_ours(os.getpid(), path) is None


def test_the_kernel_says_whose_unix_socket_it_is(path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, child("-c", LISTENER) as other:
        listener.bind(path)
        listener.listen()
        assert socket_is_ours(os.getpid(), path) is True
        assert socket_is_ours(other.pid, path) is False


def test_a_grandchilds_unix_socket_counts_as_its_grandparents(path) -> None:
    with child("-c", PARENT, "-c", UNIX_LISTENER, path) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert socket_is_ours(parent.pid, path) is True
        with child("-c", LISTENER) as stranger:
            assert socket_is_ours(stranger.pid, path) is False
        parent.communicate()
    assert socket_is_ours(os.getpid(), path) is None


def test_a_listener_with_a_full_queue_says_nothing_and_holds_nobody_up(path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(path)
            assert socket_is_ours(os.getpid(), path) is None
        finally:
            for one in waiting:
                one.close()
