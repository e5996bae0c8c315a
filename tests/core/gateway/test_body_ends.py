"""Both ends of a body: kept, whatever its length and its pieces, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enginery.api.endings import TAIL_BYTES
from enginery.gateway.body_ends import BodyEnds
from enginery.gateway.framing import ChunkWalk, chunk

PIECES = st.lists(st.binary(min_size=1, max_size=3000), max_size=40)


def ends_of(pieces: list[bytes], *, in_chunks: bool) -> BodyEnds:
    ends = BodyEnds(in_chunks=in_chunks)
    walk = ChunkWalk()
    for piece in pieces:
        ends.add(walk.feed(chunk(piece)) if in_chunks else piece)
    return ends


@given(PIECES, st.booleans())
def test_the_last_bytes_are_the_payload_s_whatever_the_pieces(pieces, in_chunks):
    whole = b"".join(pieces)
    ends = ends_of(pieces, in_chunks=in_chunks)
    assert ends.last() == whole[-TAIL_BYTES:]
    short = ends.last(100)
    assert whole.endswith(short)
    assert len(short) >= min(100, len(whole))


@given(PIECES.filter(bool), st.booleans())
def test_the_first_ones_are_those_of_the_first_piece(pieces, in_chunks):
    assert ends_of(pieces, in_chunks=in_chunks).first() == pieces[0]


def test_a_payload_that_looks_like_a_chunk_is_left_as_it_is():
    assert ends_of([b"3\r\nabc\r\n"], in_chunks=False).first() == b"3\r\nabc\r\n"


def test_memory_is_bounded():
    ends = ends_of([b"x" * 100] * 5000, in_chunks=True)
    assert sum(map(len, ends._pieces)) <= 4 * TAIL_BYTES


@given(PIECES, st.booleans())
def test_all_that_passed_is_counted_though_not_all_is_kept(pieces, in_chunks):
    passed = [chunk(piece) for piece in pieces] if in_chunks else pieces
    assert ends_of(pieces, in_chunks=in_chunks).size == sum(map(len, passed))


@given(st.integers(1, 900), st.booleans())
def test_the_size_of_an_event_is_what_it_takes_on_the_wire(count, in_chunks):
    event = b'data: {"x":"\\ndata: "}\n\n'
    ends = ends_of([event] * count, in_chunks=in_chunks)
    assert ends.event_size() == len(chunk(event) if in_chunks else event)
    assert BodyEnds().event_size() == 0.0


def test_comments_are_no_sign_of_the_model_s_life():
    ends = ends_of([b"data: a\n\n", b": ping\n\n", b":\n\n"], in_chunks=True)
    assert ends.only_comments(2)
    assert not ends.only_comments(3)
    assert not BodyEnds().only_comments(1)
