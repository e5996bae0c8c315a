from __future__ import annotations

import random
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.enginecore import (
    Capabilities,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    RequestType,
)
from enginery.enginecore.client_state import ClientState
from enginery.enginecore.core_end import CoreEnd
from enginery.enginecore.failures import Failure
from enginery.enginecore.wire import (
    MAX_FRAME,
    PROTOCOL_VERSION,
    FrameReader,
    Hello,
    ProtocolError,
    Ready,
    Result,
    Shutdown,
    ToClient,
    Utility,
    decode_to_client,
    decode_to_core,
    frame,
)

TO_CORE = [
    (RequestType.HELLO, Hello(PROTOCOL_VERSION, {"seed": 3}, ["/x"])),
    (RequestType.ADD_REQUEST, EngineCoreRequest("r", prompt="hello")),
    (RequestType.ABORT_REQUESTS, ["r", "q"]),
    (RequestType.UTILITY, Utility(4, "sleep", {"level": 1})),
    (RequestType.SHUTDOWN, Shutdown("drain", 2.5)),
]
TO_CLIENT = [
    (ToClient.READY, Ready(PROTOCOL_VERSION, Capabilities(100), 17)),
    (ToClient.OUTPUTS, EngineCoreOutputs([EngineCoreOutput("r", [5, 6], "hi")], seq=9)),
    (ToClient.RESULT, Result(4, {"a": [1]})),
    (ToClient.DEAD, Failure("ValueError", "no")),
]


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """``data`` in pieces of random sizes."""
    at, pieces = 0, []
    while at < len(data):
        size = rng.choice((1, 2, 3, 5, 40, 1000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


@pytest.mark.parametrize(("kind", "message"), TO_CORE)
def test_what_a_client_sends_arrives(kind, message) -> None:
    ((got, payload),) = FrameReader().feed(bytes(frame(kind, message)))
    assert got == kind
    assert decode_to_core(got, payload) == message


@pytest.mark.parametrize(("kind", "message"), TO_CLIENT)
def test_what_the_core_sends_arrives(kind, message) -> None:
    ((got, payload),) = FrameReader().feed(bytes(frame(kind, message)))
    assert got == kind
    assert decode_to_client(got, payload) == message


@given(st.lists(st.binary(max_size=3000), max_size=8), st.randoms(use_true_random=False))
def test_frames_are_the_same_however_the_stream_is_cut(payloads, rng) -> None:
    stream = b"".join(bytes(frame(1, payload)) for payload in payloads)
    reader = FrameReader()
    got = [each for piece in cut(stream, rng) for each in reader.feed(piece)]
    assert [msgspec.msgpack.decode(payload) for _, payload in got] == payloads


def test_an_impossible_length_is_refused_before_anything_is_kept() -> None:
    for head in (b"\x00\x00\x00\x00", (MAX_FRAME + 1).to_bytes(4, "little"), b"\xff\xff\xff\xff"):
        with pytest.raises(ProtocolError, match="a frame of"):
            FrameReader().feed(head)


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(ValueError, match="are the most"):
        frame(1, b"x" * (MAX_FRAME + 1))


def test_an_unknown_kind_and_a_wrong_message_are_protocol_errors() -> None:
    with pytest.raises(ProtocolError, match="kind 77"):
        decode_to_core(77, b"\x90")
    for kind, message in TO_CORE:
        with pytest.raises(ProtocolError, match="does not hold its message"):
            decode_to_core(kind, msgspec.msgpack.encode("something else"))
        whole = bytes(frame(kind, message))[5:]
        with pytest.raises(ProtocolError):
            decode_to_core(kind, whole[:-1])


def test_deep_nesting_is_a_protocol_error() -> None:
    bomb = b"\x93\x01\xa1x\x81\xa1a" + b"\x91" * 200_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        decode_to_core(RequestType.UTILITY, bomb)


def test_a_newer_side_may_say_more() -> None:
    longer = msgspec.msgpack.encode([4, "sleep", {"level": 1}, "a field of tomorrow"])
    assert decode_to_core(RequestType.UTILITY, longer) == Utility(4, "sleep", {"level": 1})


# -- random streams ----------------------------------------------------------------------------


def nonsense(rng: random.Random, valid: list[bytes]) -> bytes:
    """Noise; true frames with noise in them; frames in any order; well-formed msgpack of the wrong shape."""
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.randrange(1, 200))
        case 1:
            data = bytearray(b"".join(rng.choices(valid, k=rng.randrange(1, 5))))
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case 2:
            return b"".join(rng.choices(valid, k=rng.randrange(1, 8)))
        case 3:
            value = rng.choice(([], {}, [1], ["x", {}], [[[]]], None, "s", -1, [1, {"a": None}]))
            return bytes(frame(rng.randrange(12), value))
        case _:
            payload = rng.randbytes(rng.randrange(60))
            size = (1 + len(payload)).to_bytes(4, "little")
            return valid[0] + size + bytes([rng.randrange(12)]) + payload


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """Streams into both ends; returns how many ended in a protocol error at each."""
    rng = random.Random(seed)
    refused = [0, 0]
    to_core = [bytes(frame(*each)) for each in TO_CORE]
    to_client = [bytes(frame(*each)) for each in TO_CLIENT]
    for _ in range(count):
        for side, end, valid in ((0, CoreEnd(), to_core), (1, ClientState(), to_client)):
            try:
                for piece in cut(nonsense(rng, valid), rng):
                    end.feed(piece)
            except ProtocolError:
                refused[side] += 1
    return refused[0], refused[1]


def test_ten_thousand_random_streams_into_either_end_are_protocol_errors_and_nothing_else() -> None:
    core, client = fuzz(10_000, seed=1)
    assert core > 5000
    assert client > 5000


@pytest.mark.heavy
def test_a_million_random_streams_into_either_end() -> None:
    for seed in range(2, 102):
        assert min(fuzz(10_000, seed)) > 5000


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_never_a_crash(data) -> None:
    for end in (CoreEnd(), ClientState()):
        with suppress(ProtocolError):
            end.feed(data)
