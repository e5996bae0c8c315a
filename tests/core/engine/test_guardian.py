"""The guardian's pure parts; what it does to processes is in test_process and its neighbours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.engine import guardian
from enginery.engine.guardian.family import descendants
from enginery.engine.guardian.messages import send, split_messages

pytestmark = pytest.mark.both_loops

PROGRAM = str(Path(guardian.__file__).with_name("__main__.py"))

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
messages = st.lists(st.lists(words, min_size=1, max_size=4), max_size=5)


def framed(*fields: str) -> bytes:
    payload = "\0".join(fields).encode()
    return len(payload).to_bytes(4, "big") + payload


@given(messages, st.data())
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(sent, data) -> None:
    stream = b"".join(framed(*fields) for fields in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer, got = bytearray(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer += stream[start:end]
        got += split_messages(buffer)
    assert got == sent
    assert not buffer


@given(messages)
def test_what_send_writes_is_what_split_messages_reads(sent) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        for fields in sent:
            send(write, *fields)
        os.close(write)
        assert split_messages(bytearray(reader.read())) == sent


def test_bytes_that_are_not_utf8_survive_the_way_to_the_guardian() -> None:
    odd = os.fsdecode(b"/models/\xff.gguf")
    payload = odd.encode("utf-8", "surrogateescape")
    assert split_messages(bytearray(len(payload).to_bytes(4, "big") + payload)) == [[odd]]


def test_sending_to_a_manager_that_is_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    send(write, "gone")
    os.close(write)
    send(write, "gone")


def test_descendants_are_all_below_parents_first_without_zombies() -> None:
    script = """
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.write(write, b"x")
        time.sleep(600)
    time.sleep(600)
os.read(read, 1)
zombie = os.fork()
if zombie == 0:
    os._exit(0)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
print(zombie, flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as family:
        assert family.stdout is not None
        zombie = int(family.stdout.readline())
        found = descendants(family.pid)
        mine = descendants(os.getpid())
    assert zombie not in found
    assert len(found) == 2
    assert family.pid in mine
    assert set(found) < set(mine)
    assert mine.index(family.pid) < min(mine.index(pid) for pid in found)


def test_a_process_with_brackets_and_spaces_in_its_name_is_read_like_any_other(tmp_path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "600"]) as odd:
        assert odd.pid in descendants(os.getpid())
        odd.kill()


def test_nobody_is_below_a_process_that_does_not_exist() -> None:
    assert descendants(2**22 + 1) == []


def test_the_guardian_imports_the_standard_library_and_little_of_it() -> None:
    """Run as the manager runs it, but without its arguments, so that it ends after the imports."""
    command = [sys.executable, "-I", "-S", "-X", "importtime", PROGRAM]
    trace = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    loaded = {line.rpartition("|")[2].strip() for line in trace.splitlines() if "|" in line}
    assert {"select", "signal", "guardian.roles"} <= loaded
    heavy = {
        "asyncio",
        "subprocess",
        "logging",
        "typing",
        "pathlib",
        "socket",
        "ctypes",
        "enginery",
    }
    assert not loaded & heavy


@pytest.mark.parametrize("manager", [1, 2**22 + 1])
def test_a_guardian_whose_manager_died_before_it_looked_starts_nothing(manager, tmp_path) -> None:
    """Even while a fork of the manager holds the socket open and the order is in it already."""
    mark = tmp_path / "started"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        order = ("", "1.0", "0", "/usr/bin/touch", str(mark))
        ours.sendall(framed(*order))
        command = [sys.executable, "-I", "-S", PROGRAM, str(theirs.fileno())]
        done = subprocess.run(
            [*command, str(manager)], pass_fds=[theirs.fileno()], timeout=30, check=False
        )
    assert done.returncode == 0
    assert not mark.exists()
