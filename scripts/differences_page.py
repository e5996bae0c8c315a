"""docs/vllm-differences.md, from the list that the tests hold our servers to.

Knows: the list's columns and how the page reads. Does not know: servers; that the list is true is for
tests/vllm/oracle/test_against_record.py.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

__all__ = ["differences_page"]

INTRO = """\
The mock engine and core servers (`python -m enginery.coreserver`, which runs engines in Python) have vLLM's routes and
shapes. One script asks them and a real vLLM {version} the same questions: replies whole and streamed, stop strings,
wrong requests, overflow, overload, token counts, clients that leave, sleep, wake, pause, reset and abort; {answers}
answers in {scenarios} scenarios (`tests/support/oracle`). Compared are status, finish reasons, states, and of all else
keys and types; in streams the kinds of frames in their order. A key that is null on one side and missing on the other
is no difference: clients read both as none. Where the status differs, bodies are not compared.

vLLM's answers are kept in `tests/vllm/data`; `make test-vllm` asks the real one again, and fails where it answers
otherwise. `make test` compares ours with them: what differs is below, each with its reason, and nothing else does.

A minus is a key that only vLLM has, a plus one that only ours has.
"""


def differences_page(note: str, listed: Path, record: Path) -> str:
    """The page, without its last newline.

    Args:
        note: says that the page is generated.
        listed: docs/vllm-differences.jsonl; rows of one reason stand together.
        record: what vLLM answered.
    """
    told = json.loads(record.read_text())
    scenarios = told["scenarios"]
    intro = INTRO.format(
        version=told["vllm"],
        scenarios=len(scenarios),
        answers=sum(map(len, scenarios.values())),
    )
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    out = ["# Where our servers answer otherwise than vLLM\n", note, intro]
    for reason, same in groupby(rows, key=lambda row: row["reason"]):
        table = "\n".join(map(_row, same))
        out.append(f"**{reason}**\n\n| what | whose | where |\n|---|---|---|\n{table}\n")
    return "\n".join(out)


def _row(row: dict[str, Any]) -> str:
    where = "; ".join(f"{name} ({', '.join(answers)})" for name, answers in row["where"].items())
    return f"| `{row['what']}` | {row['who']} | {where} |"
