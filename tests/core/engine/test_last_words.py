"""`enginery.engine.last_words`: which lines are shown with an engine's end."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from enginery.engine.last_words import CAUSES, last_words

CAUSE = re.compile("^why: ")

LOGS = st.lists(
    st.sampled_from(["why: no memory", "why: no file", "at line 3", "loading", "why: x"])
)


def log_of(*told: str, after: int = 30) -> list[str]:
    return ["loading", *told, *(f"at line {n}" for n in range(after))]


def test_without_a_hint_they_are_the_last() -> None:
    assert last_words(log_of("why: no memory"), 2) == ["at line 28", "at line 29"]


def test_a_reason_comes_before_the_last_with_a_gap_between() -> None:
    found = last_words(log_of("why: no memory"), 2, CAUSE)
    assert found == ["why: no memory", "…", "at line 28", "at line 29"]


def test_a_reason_among_the_last_is_shown_where_it_stands() -> None:
    assert last_words(log_of("why: no memory", after=1), 3, CAUSE) == [
        "loading",
        "why: no memory",
        "at line 0",
    ]


def test_the_same_reason_is_told_once_and_of_many_the_latest() -> None:
    told = [f"why: {n}" for n in range(10)]
    found = last_words(log_of(*told, *told), 1, CAUSE)
    assert found == [*told[-CAUSES:], "…", "at line 29"]


@given(LOGS, st.integers(1, 8))
def test_the_last_lines_are_always_there_and_nothing_is_made_up(lines, n) -> None:
    found = last_words(lines, n, CAUSE)
    last = lines[-n:]
    assert found[len(found) - len(last) :] == last
    before = found[: len(found) - len(last)]
    told = {line for line in lines[:-n] if CAUSE.search(line)}
    assert bool(before) == bool(told)
    assert set(before) <= {*told, "…"}
    assert len(before) <= CAUSES + 1
