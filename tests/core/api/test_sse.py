from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.api.sse import DONE, SSEDecoder, SSEEvent, encode_comment, encode_event
from enginery.errors import BadEngineReply

patient = settings(deadline=None)  # the machine that runs this may be busy

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ONE_LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=10)
STREAMS = st.lists(
    st.sampled_from(
        [
            b"data",
            b"data: ",
            b"data:",
            b"event: x",
            b"id: 7",
            b"id: a\0b",
            b"retry: 10",
            b": comment",
            b"\r",
            b"\n",
            b"\r\n",
            b"\n\n",
            b"\r\r",
            "é€\U0001f600".encode(),
            b"\xff",
            b"\xef\xbb\xbf",
            b" ",
            b":",
        ]
    ),
    max_size=24,
).map(b"".join)


def decoded(*pieces: bytes) -> list[SSEEvent]:
    decoder = SSEDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    decoder.close()
    return events


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """``stream`` in pieces, cut at ``places`` taken modulo its length."""
    marks = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(marks)]


@patient
@given(STREAMS, st.lists(st.integers(0, 500), max_size=8))
def test_any_partition_of_a_stream_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    whole = decoded(stream)
    assert decoded(*cut(stream, places)) == whole
    assert decoded(*(bytes([byte]) for byte in stream)) == whole


@patient
@given(st.lists(st.tuples(TEXT, st.none() | ONE_LINE)), st.lists(st.integers(0, 2000), max_size=4))
def test_what_is_encoded_decodes_to_itself(
    sent: list[tuple[str, str | None]], places: list[int]
) -> None:
    stream = b"".join(encode_event(data, event) for data, event in sent)
    expected = [
        SSEEvent(data.replace("\r\n", "\n").replace("\r", "\n"), event or "message")
        for data, event in sent
    ]
    assert decoded(*cut(stream, places)) == expected


@patient
@given(TEXT)
def test_a_comment_is_never_an_event(text: str) -> None:
    assert decoded(encode_comment(text), DONE) == [SSEEvent("[DONE]")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_all_three_line_ends_mean_the_same(end: bytes) -> None:
    lines = [b": hi", b"event: add", b"data: one", b"data:two", b"id: 3", b"", b"data", b"", b""]
    assert decoded(end.join(lines)) == [SSEEvent("one\ntwo", "add", "3"), SSEEvent("", id="3")]


def test_an_event_comes_with_its_blank_line_and_not_one_byte_later() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: x\r\n\r") == [SSEEvent("x")]
    assert decoder.feed(b"\ndata: y\r\r") == [SSEEvent("y")]


def test_a_byte_order_mark_is_skipped_at_the_start_only() -> None:
    bom = b"\xef\xbb\xbf"
    assert decoded(bom[:2], bom[2:] + b"data: x\n\n") == [SSEEvent("x")]
    assert decoded(b"\n" + bom + b"data: x\n\n") == []


def test_one_space_after_the_colon_is_dropped_and_no_more() -> None:
    assert decoded(b"data:  x \n\n") == [SSEEvent(" x ")]


def test_an_event_without_data_is_none_and_its_type_is_forgotten() -> None:
    assert decoded(b"event: lost\n\ndata: x\n\n") == [SSEEvent("x")]


def test_unknown_fields_and_malformed_retries_are_ignored() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"retry: 1500\nretry: soon\nretry: -1\nretry: \xd9\xa1\ncolour: red\n\n")
    assert decoder.retry_ms == 1500


def test_an_id_stays_until_it_is_changed_and_one_with_a_null_is_ignored() -> None:
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid: \0\ndata: c\n\nid\ndata: d\n\n"
    assert [event.id for event in decoded(stream)] == ["1", "1", "1", ""]


def test_malformed_utf8_becomes_the_replacement_character() -> None:
    assert decoded(b"data: \xff\xe2\x82\n\n") == [SSEEvent("��")]


def test_separators_of_unicode_are_text_not_line_ends() -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce"
    assert decoded(encode_event(text)) == [SSEEvent(text)]


def test_an_event_that_is_not_complete_at_the_end_is_dropped() -> None:
    assert decoded(b"data: x\n") == []


@pytest.mark.parametrize(
    ("stream", "boundary"),
    [
        (b"", True),
        (b"data: x\n\n", True),
        (b": c\n", True),
        (b"data: x\n", False),
        (b"da", False),
        (b"event: e\n", False),
    ],
)
def test_the_decoder_knows_whether_an_event_is_half_read(stream: bytes, boundary: bool) -> None:
    decoder = SSEDecoder()
    decoder.feed(stream)
    assert decoder.at_boundary is boundary


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_over_the_bound_is_an_error_after_the_events_before_it(size: int) -> None:
    stream = b"data: fits\n\n" + b"data: 0123456789\n" * 20
    decoder = SSEDecoder(max_event_bytes=100)
    events: list[SSEEvent] = []

    def read() -> None:
        for start in range(0, len(stream), size):
            events.extend(decoder.feed(stream[start : start + size]))
        decoder.close()

    with pytest.raises(BadEngineReply, match="larger than 100 bytes"):
        read()
    assert events == [SSEEvent("fits")]
    with pytest.raises(BadEngineReply):
        decoder.feed(b"\n\n")


def test_comments_without_end_do_not_fill_the_bound() -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    for _ in range(100):
        assert decoder.feed(b": keep-alive\n") == []


def test_an_event_type_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="one line"):
        encode_event("x", "a\nb")
