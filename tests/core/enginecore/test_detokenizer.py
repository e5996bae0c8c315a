from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.enginecore import Detokenizer, MockTokenizer, StopStrings
from support.properties import steady

BYTES = MockTokenizer()


class Pieces:
    """Some tokens as bytes, cut anywhere: what a byte-level vocabulary may look like."""

    def __init__(self, pieces) -> None:
        self.pieces = pieces

    def decode(self, ids, *, skip_special_tokens=True, spaces_between_special_tokens=True) -> str:
        return b"".join(self.pieces[token] for token in ids).decode("utf-8", "replace")


class Words:
    """SentencePiece's habit: the first word of a text loses its space."""

    def decode(self, ids, *, skip_special_tokens=True, spaces_between_special_tokens=True) -> str:
        return "".join(f" w{token}" for token in ids).removeprefix(" ")


def streamed(detokenizer, ids) -> tuple[str, str | None]:
    text = ""
    for token in ids:
        piece, stop = detokenizer.feed([token])
        text += piece
        if stop is not None:
            return text, stop
    rest, stop = detokenizer.finish()
    return text + rest, stop


@settings(steady, max_examples=200)
@given(st.lists(st.binary(max_size=5), max_size=30))
def test_joined_text_is_what_all_ids_decode_to_however_characters_are_cut(pieces) -> None:
    tokenizer = Pieces(pieces)
    ids = list(range(len(pieces)))
    assert streamed(Detokenizer(tokenizer), ids) == (tokenizer.decode(ids), None)


@settings(steady, max_examples=100)
@given(st.text(max_size=30), st.data())
def test_text_comes_in_whole_characters_and_joined_it_is_the_text(text, data) -> None:
    raw = text.encode("utf-8")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    detokenizer = Detokenizer(Pieces(pieces))
    shown = ""
    for token in range(len(pieces)):
        shown += detokenizer.feed([token])[0]
        assert text.startswith(shown)
    assert shown + detokenizer.finish()[0] == text


def test_a_character_of_four_bytes_comes_when_its_last_byte_does() -> None:
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.feed([byte])[0] for byte in "🦊".encode()] == ["", "", "", "🦊"]


def test_a_character_that_is_never_finished_is_shown_as_broken_at_the_end() -> None:
    detokenizer = Detokenizer(BYTES)
    assert detokenizer.feed(list("a€".encode()[:-1])) == ("a", None)
    assert detokenizer.finish() == ("\ufffd", None)


def test_garbage_is_not_held_back_for_ever() -> None:
    detokenizer = Detokenizer(BYTES)
    shown = "".join(detokenizer.feed([0xFF])[0] for _ in range(50))
    assert len(shown) >= 47


def test_the_first_word_keeps_its_space_after_a_prompt() -> None:
    assert streamed(Detokenizer(Words(), prompt_token_ids=[1, 2]), [3, 4]) == (" w3 w4", None)
    assert streamed(Detokenizer(Words()), [3, 4]) == ("w3 w4", None)


def test_special_tokens_are_shown_only_if_asked_for() -> None:
    eos = BYTES.eos_token_id
    assert streamed(Detokenizer(BYTES), [97, eos])[0] == "a"
    assert streamed(Detokenizer(BYTES, skip_special_tokens=False), [97, eos])[0] == "a </s>"
    shown = Detokenizer(BYTES, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert streamed(shown, [97, eos])[0] == "a</s>"


@settings(steady, max_examples=300)
@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.booleans(),
    st.data(),
)
def test_a_stop_string_is_found_the_same_however_the_text_is_cut(
    text, stops, include, data
) -> None:
    ends = [(text.find(s) + len(s), text.find(s), s) for s in stops if s in text]
    wanted, wanted_stop = text, None
    if ends:
        end, at, wanted_stop = min(ends)
        wanted = text[: end if include else at]
    checker = StopStrings(stops, include=include)
    shown, rest, stop = "", text, None
    while rest and stop is None:
        size = data.draw(st.integers(1, len(rest)))
        piece, stop = checker.feed(rest[:size])
        rest = rest[size:]
        shown += piece
        assert wanted.startswith(shown)
    if stop is None:
        shown += checker.flush()
    assert (shown, stop) == (wanted, wanted_stop)


def test_no_beginning_of_a_stop_string_is_shown_before_it_is_sure() -> None:
    checker = StopStrings(["</end>"])
    assert checker.feed("hello <") == ("hello ", None)
    assert checker.feed("/en") == ("", None)
    assert checker.feed("joy") == ("</enjoy", None)
    assert checker.feed("</end> and more") == ("", "</end>")


def test_what_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    detokenizer = Detokenizer(BYTES, stop=["xyz"])
    assert detokenizer.feed(list(b"axy")) == ("a", None)
    assert detokenizer.finish() == ("xy", None)


def test_a_stop_string_may_be_cut_across_tokens_and_characters() -> None:
    assert streamed(Detokenizer(BYTES, stop=["é!"]), b"caf" + "é! more".encode()) == (
        "caf",
        "é!",
    )


@pytest.mark.parametrize("at_once", [True, False])
def test_stop_strings_count_only_from_min_tokens_on(at_once) -> None:
    detokenizer = Detokenizer(BYTES, stop=["b"], min_tokens=3)
    ids = list(b"abab")
    pieces = [ids] if at_once else [[each] for each in ids]
    found = [detokenizer.feed(piece) for piece in pieces]
    assert "".join(text for text, _ in found) == "aba"
    assert found[-1][1] == "b"


def test_a_stop_string_that_an_unfinished_character_hides_is_found_at_the_end() -> None:
    detokenizer = Detokenizer(BYTES, stop=["\ufffd"])
    assert detokenizer.feed([97, 0xE2]) == ("a", None)
    assert detokenizer.finish() == ("", "\ufffd")


class EachByte:
    """Byte fallback's habit: an unfinished character is one U+FFFD per byte."""

    def decode(self, ids, *, skip_special_tokens=True, spaces_between_special_tokens=True) -> str:
        whole = bytes(ids)
        for rest in range(4):
            try:
                return whole[: len(whole) - rest].decode() + "\ufffd" * rest
            except UnicodeDecodeError:
                continue
        raise AssertionError("more than a character is unfinished")


def test_an_unfinished_character_may_be_shown_as_one_mark_per_byte() -> None:
    detokenizer = Detokenizer(EachByte())
    assert [detokenizer.feed([byte])[0] for byte in "é🦊x".encode()] == [
        *("", "é"),
        *("", "", "", "🦊"),
        "x",
    ]
