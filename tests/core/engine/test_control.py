"""The manager's end of the guardians' socket, with tests at the other end."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from enginery.engine.control import CHUNK, Control, ExitStatus
from enginery.engine.guardian import split_messages
from enginery.errors import EngineStartFailed

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def pair():
    """A control that is watched, and the other end of its socket, which blocks nobody."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    control = Control(asyncio.get_running_loop())
    control.watch(ours)
    with theirs:
        yield control, theirs
        control.close()
        assert ours.fileno() == -1


def message(*words: str) -> bytes:
    payload = "\0".join(words).encode()
    return len(payload).to_bytes(4, "big") + payload


def test_every_wait_status_has_words() -> None:
    assert str(ExitStatus()) == "ended in an unknown way"
    assert str(ExitStatus(signal=63)) == "killed by signal 63"
    assert ExitStatus.from_wait_status(signal.SIGKILL) == ExitStatus(signal=9)
    assert ExitStatus.from_wait_status(7 << 8) == ExitStatus(code=7)


async def test_the_first_exit_status_counts_and_none_is_no_reason_to_wait() -> None:
    """The outer guardian may tell again what the inner one told before it was killed."""
    control = Control(asyncio.get_running_loop())
    for words in (("started", "7", "6"), ("exited", "256"), ("exited", "9"), ("gone",)):
        control.hear(message(*words))
    assert control.started.result() == (7, 6)
    assert control.status == ExitStatus(code=1)
    assert control.gone.done()
    silent = Control(asyncio.get_running_loop())
    silent.hear(message("gone"))
    assert silent.ended.done()
    with pytest.raises(EngineStartFailed, match="guardian"):
        silent.started.result()


async def test_messages_are_heard_however_they_are_cut(pair) -> None:
    control, theirs = pair
    for byte in message("started", "7", "6"):
        assert not control.started.done()
        theirs.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await control.started == (7, 6)


async def test_a_message_larger_than_any_socket_takes_at_once_gets_there_whole(pair) -> None:
    """An environment may have megabytes."""
    control, theirs = pair
    words = ["first", "x" * 2_000_000, "last"]
    control.send(*words)
    control.send("kill")
    loop, buffer, heard = asyncio.get_running_loop(), bytearray(), []
    while len(heard) < 2:
        buffer += await loop.sock_recv(theirs, CHUNK)
        heard += split_messages(buffer)
    assert heard == [words, ["kill"]]


async def test_a_hang_up_is_heard_at_once_whatever_was_not_sent_yet(pair) -> None:
    control, theirs = pair
    control.send("x" * 2_000_000)
    control.close()
    control.close()
    control.send("lost")
    assert control.gone.done()
    loop, seen = asyncio.get_running_loop(), 0
    while data := await loop.sock_recv(theirs, CHUNK):
        seen += len(data)
    assert seen < 2_000_000


@pytest.mark.parametrize("size", [0, 3 * CHUNK // 2])
async def test_guardians_that_died_with_our_words_unread_are_heard_to_the_end(pair, size) -> None:
    """The socket is reset then, of which an event loop may tell only once."""
    control, theirs = pair
    control.send("signal", "15")
    if size:
        theirs.send(message("failed", "x" * size))
    theirs.close()
    await control.gone
    with pytest.raises(EngineStartFailed, match="xxx" if size else "guardian process ended"):
        control.started.result()
    control.send("kill")  # nobody hears it, and nobody minds
