"""The budget of bodies, and the number of files."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.gateway.limits import BodyBudget


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(0, 100))
def test_a_budget_is_never_exceeded_and_comes_back_whole(sizes: list[int], limit: int) -> None:
    budget, held = BodyBudget(limit), []
    for size in sizes:
        fits = budget.used + size <= limit
        assert budget.take(size) == fits
        if fits:
            held.append(size)
        assert budget.used == sum(held) <= limit
        assert budget.full == (budget.used >= limit)
        if len(held) > 3:
            budget.give(held.pop(0))
    for size in held:
        budget.give(size)
    assert budget.used == 0


def test_a_process_opens_as_many_files_as_it_may() -> None:
    program = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from enginery.gateway.limits import raise_file_limit\n"
        "got = raise_file_limit()\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "assert got == soft == hard, (got, soft, hard)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
