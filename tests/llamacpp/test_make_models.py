"""``scripts/make_models.py`` and ``tiny_tokenizer.py``: tiny models, the same every time."""

from __future__ import annotations

import pytest
import tiny_tokenizer


def test_models_are_the_same_every_time(make_models, models, tmp_path) -> None:
    again = make_models.make(tmp_path)
    assert [path.name for path in again] == [f"{name}.gguf" for name in make_models.MODELS]
    for path in again:
        assert path.read_bytes() == (models / path.name).read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted(again)  # nothing half-made is left


def test_what_is_there_is_not_made_again(make_models, tmp_path) -> None:
    for name in make_models.MODELS:
        (tmp_path / f"{name}.gguf").write_bytes(b"kept")
    make_models.make(tmp_path)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"kept"}


@pytest.mark.parametrize(
    ("word", "pair", "joined"),
    [("aaaa", "aa", ["aa", "aa"]), ("aaa", "aa", ["aa", "a"]), ("abab", "ab", ["ab", "ab"])],
)
def test_a_pair_is_joined_from_the_left(word, pair, joined) -> None:
    assert tiny_tokenizer._joined(list(word), tuple(pair)) == joined


def test_the_tokenizer_prefers_what_is_frequent() -> None:
    tokenizer = tiny_tokenizer.train_tokenizer("the the the then", 2)
    assert len(tokenizer.tokens) == 256 + 2
    assert tokenizer.merges == ("t h", "th e")
