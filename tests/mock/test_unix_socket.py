"""The mock server on a unix socket, as a real child process."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile

import pytest

from enginery import Endpoint, Variant
from enginery_mock import MockPlugin

SOCKET = Endpoint("localhost", 0, api_key="s3cret", unix_path="/run/x.sock")


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield f"{directory}/x.sock"


def server(path: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "enginery_mock.server", "--uds", path]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_says_where_it_listens_and_how_to_talk_to_it(path) -> None:
    with server(path) as process:
        try:
            lines = [next(process.stdout) for _ in range(3)]
            assert lines[0].split()[-1] == Endpoint("", 0, unix_path=path).base_url
            words = shlex.split(lines[2].partition("try: ")[2])
            assert words[:3] == ["curl", "--unix-socket", path]
            assert words[3] == "http://localhost/v1/chat/completions"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                assert client.recv(4096).startswith(b"HTTP/1.0 200")
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0


def test_a_file_that_is_there_already_is_not_removed_but_refused(path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with server(path) as process:
        _, complaint = process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on {path}: Address already in use" in complaint


def test_the_plugin_names_the_socket_and_no_port() -> None:
    argv = MockPlugin().build_command(Variant("m", engine_type="mock"), SOCKET).argv
    assert argv[argv.index("--uds") + 1] == "/run/x.sock"
    assert not {"--host", "--port"} & set(argv)
