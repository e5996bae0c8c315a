"""What real vLLM answered, as it was recorded, and the differences of ours that are listed with their reasons.

Knows: both files. Does not know: servers. A record holds shapes alone (`shapes`), by scenario and by answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support.oracle.shapes import differences

__all__ = ["LISTED", "RECORD", "Difference", "between", "listed", "recorded", "write_record"]

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "tests" / "vllm" / "data" / "vllm-0.32.json"
LISTED = ROOT / "docs" / "vllm-differences.jsonl"


class Difference(NamedTuple):
    """One answer's, to one question."""

    scenario: str
    answer: str
    what: str


def recorded() -> dict[str, Any]:
    """Scenario to the shapes of its answers."""
    scenarios: dict[str, Any] = json.loads(RECORD.read_text())["scenarios"]
    return scenarios


def write_record(version: str, scenarios: dict[str, Any], path: Path = RECORD) -> None:
    """Keep what vLLM of ``version`` answered."""
    made = "ENGINERY_ORACLE_WRITE=1 make test-vllm"
    record = {"vllm": version, "made_by": made, "scenarios": scenarios}
    path.write_text(json.dumps(record, indent=1) + "\n")


def listed(who: str) -> set[Difference]:
    """Those that docs/vllm-differences.jsonl has of ``who``."""
    rows = [json.loads(line) for line in LISTED.read_text().splitlines()]
    return {
        Difference(scenario, answer, row["what"])
        for row in rows
        if row["who"] == who
        for scenario, answers in row["where"].items()
        for answer in answers
    }


def between(theirs: dict[str, Any], ours: dict[str, Any]) -> set[Difference]:
    """All differences of two servers' answers to all scenarios; bodies are compared where the status is the same."""
    return {
        Difference(scenario, answer, what)
        for scenario in theirs | ours
        for answer in theirs.get(scenario, {}) | ours.get(scenario, {})
        for what in _of_answers(
            theirs.get(scenario, {}).get(answer, {}), ours.get(scenario, {}).get(answer, {})
        )
    }


def _of_answers(theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    if theirs.get("status") == ours.get("status"):
        yield from differences(theirs, ours)
    else:
        yield f"status: {theirs.get('status')}, ours {ours.get('status')}"
