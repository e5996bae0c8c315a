"""The mock and the core server answer as vLLM's record does, but for the differences that are listed with a reason."""

from __future__ import annotations

import pytest

from support.oracle import servers
from support.oracle.record import between, listed, recorded
from support.oracle.runner import answers_of
from support.oracle.scenarios import SCENARIOS


@pytest.mark.parametrize("who", ["mock", "coreserver"])
def test_it_differs_from_vllm_where_that_is_listed_and_nowhere_else(who) -> None:
    with getattr(servers, who)() as server:
        answers = {scenario.name: answers_of(server, scenario) for scenario in SCENARIOS}
    found, allowed = between(recorded(), answers), listed(who)
    assert sorted(found - allowed) == [], "not listed in docs/vllm-differences.jsonl"
    assert sorted(allowed - found) == [], "listed, and gone"


def test_the_record_has_an_answer_to_each_question() -> None:
    assert list(recorded()) == [scenario.name for scenario in SCENARIOS]
