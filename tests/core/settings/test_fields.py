"""Durations and names."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.settings import check_model_name, parse_seconds

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("250ms", 0.25),
        ("1m500ms", 60.5),
        ("1.5h", 5400),
        ("2d", 172800),
        ("30", 30),
        (" 5s ", 5),
        (30, 30),
        (0.5, 0.5),
        ("0s", 0),
    ],
)
def test_a_duration_is_seconds(written, seconds):
    assert parse_seconds(written) == seconds


@pytest.mark.parametrize(
    "written",
    ["", " ", "soon", "5 parsecs", "m", "30m1h", "1m1m", "1,5h", "12:30", "٣s", True, None, []],
)
def test_what_is_no_duration_says_how_one_looks(written):
    with pytest.raises(ValueError, match="such as 250ms, 30s or 1h30m"):
        parse_seconds(written)


@pytest.mark.parametrize("written", [-1, -0.1, "-5s", "-1", "- 5s"])
def test_a_negative_duration_is_refused(written):
    with pytest.raises(ValueError, match="must not be negative"):
        parse_seconds(written)


@pytest.mark.parametrize("written", [float("inf"), float("nan"), "9" * 400 + "d"])
def test_a_duration_is_finite(written):
    with pytest.raises(ValueError, match="needs a duration"):
        parse_seconds(written)


@given(st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 10_000), min_size=1))
def test_units_add_up_in_descending_order(parts):
    written = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    assert parse_seconds(written) == pytest.approx(sum(n * UNITS[u] for u, n in parts.items()))


@given(st.floats(0, 1e9))
def test_a_plain_number_is_itself(number):
    assert parse_seconds(number) == number
    assert parse_seconds(f"{number:.6f}") == pytest.approx(number, abs=1e-6)


@given(st.text(max_size=20))
def test_text_is_a_duration_or_a_value_error(text):
    with contextlib.suppress(ValueError):
        assert parse_seconds(text) >= 0


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,199}", fullmatch=True))
def test_a_model_may_have_the_names_of_this_field(name):
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a\n", "é", "a" * 201, "a?b", "a%2f"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="starts with a letter or digit"):
        check_model_name(name)
