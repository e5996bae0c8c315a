"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.settings.fields import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1.5gb", 1_500_000_000),
        ("8KB", 8000),
        ("2TiB", 2 * 2**40),
        ("100", 100),
        (4096, 4096),
        ("7B", 7),
    ],
)
def test_a_size_is_read_with_its_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GiB", "1.GiB", "1 GiBs", "1e3", "inf", True, None, -5]
)
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as 24GiB"):
        parse_size(text)


@given(st.integers(0, 10**6), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_larger_units_mean_more(number, unit):
    assert parse_size(f"{number}{unit}") == number * parse_size(f"1{unit}")
