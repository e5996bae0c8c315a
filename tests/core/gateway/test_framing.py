"""Framing: whatever cuts the network makes, the same bytes; whatever an engine sends, no other error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.errors import BadEngineReply
from enginery.gateway.framing import (
    HOLD_LIMIT,
    MAX_HEAD_BYTES,
    ChunkWalk,
    Framing,
    PlainBody,
    body_reader,
    chunk,
    parse_head,
    payload_of,
)

OK = b"HTTP/1.1 200 OK"

sizes = st.sampled_from([b"%x", b"%X", b"00%x", b"%x ;a=b", b'%x;name="a;b"', b"%X\t"])
payloads = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"\r", b"data: [DONE]\n\n"]),
    st.builds(
        lambda n, b: bytes([b]) * n,
        st.integers(HOLD_LIMIT - 20, HOLD_LIMIT + 20),
        st.integers(0, 255),
    ),
)
ends = st.sampled_from([b"0\r\n\r\n", b"000;last\r\n\r\n", b"0\r\nX-Checksum: 1\r\nVia: 0\r\n\r\n"])


def feed_all(reader, pieces) -> None:
    for piece in pieces:
        reader.feed(piece)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A chunked body: its chunks, its end, its payload."""
    pieces = draw(st.lists(payloads, max_size=6))
    framed = b"".join(draw(sizes) % len(p) + b"\r\n" + p + b"\r\n" for p in pieces)
    return framed, draw(ends), b"".join(pieces)


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """``raw`` in pieces, few or many; cuts near its ends and inside of line ends are likely."""
    near = [i for i in range(len(raw)) if raw[i : i + 2] == b"\r\n"][:50]
    places = st.integers(0, len(raw))
    if near:
        places = st.one_of(places, st.sampled_from(near).map(lambda at: at + 1))
    at = sorted(draw(st.lists(places, max_size=12)))
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True) if a < b]


@given(st.data())
def test_any_partition_of_a_chunked_body_gives_the_same_bytes_and_payload(data):
    framed, end, payload = data.draw(bodies())
    walk, body = ChunkWalk(), body_reader(Framing(chunked=True))
    went, unpacked = b"", b""
    for piece in data.draw(cut(framed + end)):
        assert not walk.ended
        went += walk.feed(piece)
        unpacked += body.feed(piece)
        assert framed.startswith(went)
        assert payload.startswith(unpacked)
    assert walk.ended
    assert body.ended
    assert not walk.surplus
    assert not walk.inside
    assert went == framed, "the last chunk is the caller's to write"
    assert unpacked == payload


@given(st.data())
def test_between_two_chunks_another_can_be_put_wherever_the_walk_says_so(data):
    framed, end, payload = data.draw(bodies())
    walk, went, ours = ChunkWalk(), b"", b"OURS"
    for piece in data.draw(cut(framed + end)):
        went += walk.feed(piece)
        if walk.inside:
            continue
        reader = body_reader(Framing(chunked=True))
        got = reader.feed(went + chunk(ours) + b"0\r\n\r\n")
        assert reader.ended
        assert got.endswith(ours)
        assert payload.startswith(got[: -len(ours)])


def test_byte_by_byte_is_no_different():
    framed = b"".join([b"A;x=y\r\n0123456789\r\n", b"1\r\n\n\r\n", b"00b\r\nhello world\r\n"])
    walk = ChunkWalk()
    went = [walk.feed(bytes([byte])) for byte in framed + b"0\r\nT: 1\r\n\r\n"]
    assert b"".join(went) == framed
    assert [piece for piece in went if piece] == [
        b"A;x=y\r\n0123456789\r\n",
        b"1\r\n\n\r\n",
        b"00b\r\nhello world\r\n",
    ], "only whole chunks are handed on"
    assert walk.ended


def test_a_chunk_over_the_limit_passes_through_as_it_comes():
    big = chunk(b"x" * (HOLD_LIMIT + 1))
    walk = ChunkWalk()
    assert walk.feed(big[:10]) == big[:10], "its size was enough to know"
    assert walk.inside
    assert walk.feed(big[10:-1]) == big[10:-1]
    assert walk.inside
    assert walk.feed(big[-1:] + b"1\r\na\r\n1\r") == big[-1:] + b"1\r\na\r\n"
    assert not walk.inside


def test_a_chunk_at_the_limit_is_held_until_it_is_whole():
    line = len(b"%x\r\n\r\n" % HOLD_LIMIT)
    held = chunk(b"x" * (HOLD_LIMIT - line))
    walk = ChunkWalk()
    assert walk.feed(held[:-1]) == b""
    assert not walk.inside
    assert walk.feed(held[-1:]) == held


@pytest.mark.parametrize("last", [b"X\n", b"\rX", b"\n\r", b"XX"])
@pytest.mark.parametrize("cut_at", [-3, -2, -1, None])
@pytest.mark.parametrize("size", [5, HOLD_LIMIT + 5])
def test_a_chunk_without_its_line_end_is_refused_wherever_it_is_cut(last, cut_at, size):
    broken = b"%x\r\n%b%b" % (size, b"x" * size, last)
    walk = ChunkWalk()
    with pytest.raises(BadEngineReply):
        feed_all(walk, [broken[:cut_at], broken[cut_at:] if cut_at else b"1"])


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b" 5", b"-5", b"+5", b"0x5", b"5_0", b"g", b"5 5", b"\xff", b"5\n"),
        *(b"1" * 16, b"f" * 16, b"5" + b" " * 300, b"5;" + b"e" * 300, b"5;a\x00b"),
    ],
)
def test_what_is_no_size_is_refused(line):
    for reader in (ChunkWalk(), body_reader(Framing(chunked=True))):
        with pytest.raises(BadEngineReply):
            reader.feed(line + b"\r\nhello\r\n")


def test_a_size_line_without_an_end_is_not_waited_for():
    walk = ChunkWalk()
    with pytest.raises(BadEngineReply):
        feed_all(walk, [b"5"] * 300)


def test_trailers_without_an_end_are_not_waited_for():
    walk = ChunkWalk()
    walk.feed(b"0\r\n")
    with pytest.raises(BadEngineReply, match="trailers"):
        feed_all(walk, [b"X: 12345678901234567890\r\n"] * (MAX_HEAD_BYTES // 20))


def test_bytes_behind_the_end_are_noticed():
    for raw, surplus in ((b"0\r\n\r\n", False), (b"0\r\n\r\nHTTP/1.1", True)):
        walk, body = ChunkWalk(), body_reader(Framing(chunked=True))
        walk.feed(b"1\r\na\r\n" + raw)
        body.feed(b"1\r\na\r\n" + raw)
        assert walk.surplus is body.surplus is surplus


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_no_bytes_raise_another_error_than_the_engines_fault(raw, at):
    at = sorted(min(x, len(raw)) for x in at)
    for make in (ChunkWalk, lambda: body_reader(Framing(chunked=True))):
        reader = make()
        try:
            for a, b in zip([0, *at], [*at, len(raw)], strict=True):
                if a < b and not reader.ended:
                    reader.feed(raw[a:b])
        except BadEngineReply:
            pass
    assert isinstance(payload_of(raw), bytes)


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_what_is_put_in_chunks_comes_out_again(pieces):
    assert payload_of(b"".join(map(chunk, pieces))) == b"".join(pieces)


def test_nothing_is_no_chunk_since_that_would_end_the_body():
    assert chunk(b"") == b""


def test_bytes_from_inside_a_chunk_stay_as_they_are():
    assert payload_of(b'"hello"}\n\n\r\n') == b'"hello"}\n\n\r\n'


# -- bodies without chunks -------------------------------------------------------------------------


@given(st.binary(max_size=50), st.integers(0, 50), st.data())
def test_a_body_of_known_length_ends_there(raw, length, data):
    body, got, seen = PlainBody(length), b"", 0
    for piece in data.draw(cut(raw)):
        if body.ended:
            break
        got += body.feed(piece)
        seen += len(piece)
    assert got == raw[:length]
    assert body.ended is (len(raw) >= length)
    assert body.surplus is (seen > length > 0)
    assert body.close() is (len(raw) >= length), "a connection's end makes no short body whole"


def test_a_body_without_a_length_ends_with_its_connection():
    body = PlainBody(None)
    assert body.feed(b"abc") == b"abc"
    assert not body.ended
    assert body.close()
    assert body.ended


# -- heads -----------------------------------------------------------------------------------------


def head_of(*lines: bytes, first: bytes = OK, bodiless: bool = False):
    return parse_head(b"\r\n".join([first, *lines]), bodiless=bodiless)


def test_a_head_is_read():
    head = head_of(b"Content-Type: application/json", b"content-length:2", b"X-A:\t b  c \t")
    assert (head.status, head.reason) == (200, b"OK")
    assert head.fields == ((b"content-type", b"application/json"), (b"x-a", b"b  c"))
    assert head.framing == Framing(length=2)
    assert head.keep_alive
    assert head.get(b"x-a") == b"b  c"
    assert head.get(b"x-b") == b""


def test_what_belongs_to_the_connection_is_left_out():
    head = head_of(
        b"Connection: Keep-Alive, X-Secret",
        b"connection: x-other",
        b"Keep-Alive: timeout=5",
        b"X-Secret: 1",
        b"X-OTHER: 2",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authenticate: Basic",
        b"TE: trailers",
        b"Trailer: X",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"X-Stays: 3",
    )
    assert head.fields == ((b"x-stays", b"3"),)
    assert head.framing == Framing(chunked=True)


@pytest.mark.parametrize(
    ("first", "lines", "framing", "keep_alive"),
    [
        (OK, [], Framing(), False),
        (OK, [b"Content-Length: 5"], Framing(length=5), True),
        (OK, [b"Content-Length: 5", b"Content-Length: 5"], Framing(length=5), True),
        (OK, [b"Content-Length: 5", b"Connection: close"], Framing(length=5), False),
        (OK, [b"Transfer-Encoding: Chunked"], Framing(chunked=True), True),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 5"], Framing(length=5), False),
        (
            b"HTTP/1.0 200 OK",
            [b"Content-Length: 5", b"Connection: keep-alive"],
            Framing(length=5),
            True,
        ),
        (b"HTTP/1.1 204", [], Framing(length=0), True),
        (b"HTTP/1.1 304 Not Modified", [b"Content-Length: 5"], Framing(length=0), True),
        (b"HTTP/1.1 100 Continue", [], Framing(length=0), True),
    ],
)
def test_the_length_of_a_body_and_the_life_of_its_connection(first, lines, framing, keep_alive):
    head = head_of(*lines, first=first)
    assert (head.framing, head.keep_alive) == (framing, keep_alive)


def test_the_reply_to_a_head_request_has_no_body():
    assert head_of(b"Content-Length: 5", bodiless=True).framing == Framing(length=0)


@pytest.mark.parametrize(
    "first",
    [
        *(b"", b"HTTP/2 200", b"HTTP/1.2 200 OK", b"http/1.1 200 OK", b"HTTP/1.1 20 OK"),
        *(b"HTTP/1.1 099 X", b"HTTP/1.1 2000 X", b"HTTP/1.1  200 OK", b"HTTP/1.1 200\nX: y"),
        *(b"ICY 200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1 200 O\x00K", b"+PONG"),
    ],
)
def test_what_is_no_status_line_is_refused(first):
    with pytest.raises(BadEngineReply):
        head_of(first=first)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: -5"],
        [b"Content-Length: +5"],
        [b"Content-Length: 0x5"],
        [b"Content-Length:"],
        [b"Content-Length: 5 5"],
        [b"Content-Length: " + b"9" * 19],
        [b"Content-Length: " + b"9" * 5000],
        [b"Content-Length: \xb2"],
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked, identity"],
        [b"Transfer-Encoding: xchunked"],
        [b"Transfer-Encoding:"],
        [b"Transfer-Encoding: \x0bchunked"],
        [b"X-A : b"],
        [b" X-A: b"],
        [b"X-A: b", b" folded"],
        [b"X-A: b", b"\tfolded"],
        [b"X-A: b\x00c"],
        [b"X-A: b\nSet-Cookie: c"],
        [b"X-A: b\rSet-Cookie: c"],
        [b": b"],
        [b"X-A"],
        [b""],
        [b"X A: b"],
        [b"X\xc3\xa9: b"],
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused(lines):
    with pytest.raises(BadEngineReply):
        head_of(*lines)


def test_chunks_are_unknown_to_http_1_0():
    with pytest.raises(BadEngineReply):
        head_of(b"Transfer-Encoding: chunked", first=b"HTTP/1.0 200 OK")


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.tuples(
                st.sampled_from(
                    [b"Content-Length", b"Transfer-Encoding", b"Connection", b"X", b"", b" "]
                ),
                st.one_of(
                    st.binary(max_size=12), st.sampled_from([b"5", b"chunked", b"close", b"x"])
                ),
            ),
            max_size=5,
        ).map(lambda fields: b"\r\n".join([OK, *(b"%b: %b" % field for field in fields)])),
    )
)
def test_no_head_raises_another_error(raw):
    try:
        head = parse_head(raw)
    except BadEngineReply:
        return
    assert not (head.framing.chunked and head.framing.length is not None)
    for name, value in head.fields:
        assert b"\n" not in name + value
        assert b"\r" not in name + value
        assert b"\0" not in name + value
        assert name == name.lower()
