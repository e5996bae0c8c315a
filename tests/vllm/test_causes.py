"""What is shown of a vLLM that did not start: of logs that vLLM 0.32.0 for CPUs wrote, by ``serving/serve.py``.

Each is whole, as it was printed, but for directories: a config.json that is no JSON, ``--max-model-len 999999``,
``--kv-cache-memory-bytes`` of 64 KiB and of 838 GiB, and weights of another shape than the configuration says.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enginery.engine.last_words import last_words
from enginery_vllm.command import CAUSE_HINT

DATA = Path(__file__).parent / "data"
SHOWN = 20


def lines_of(name: str) -> list[str]:
    return [line for line in (DATA / f"failed-{name}.log").read_text().splitlines() if line.strip()]


REASONS = [
    ("broken-config", "config.json' is not a valid JSON file"),
    ("context-too-long", "max_model_len (999999) is greater than the derived max_model_len"),
    ("cache-too-small", "ValueError: No available memory for the cache blocks."),
    ("cache-too-large", "ValueError: Available memory on node 0 (17.07/19.59 GiB)"),
    ("wrong-weights", "RuntimeError: start (0) + length (512) exceeds dimension size (256)."),
]


@pytest.mark.parametrize(("name", "reason"), REASONS)
def test_the_reason_is_shown(name, reason) -> None:
    shown = last_words(lines_of(name), SHOWN, re.compile(CAUSE_HINT))
    assert any(reason in line for line in shown)


@pytest.mark.parametrize(("name", "reason"), REASONS[2:])
def test_the_last_lines_alone_would_not_tell_it(name, reason) -> None:
    shown = last_words(lines_of(name), SHOWN)
    assert not any(reason in line for line in shown)
    assert any("See root cause above" in line for line in shown)


def test_a_worker_and_the_core_that_heard_of_it_are_one_line_each() -> None:
    told = last_words(lines_of("wrong-weights"), SHOWN, re.compile(CAUSE_HINT))[:-SHOWN]
    whose, cores, gap = (line.split("] ", 1)[-1] for line in told)
    assert whose == "RuntimeError: start (0) + length (512) exceeds dimension size (256)."
    assert cores.startswith("Exception: WorkerProc initialization failed")
    assert gap == "…"


@pytest.mark.parametrize(
    "line",
    [
        "(Worker_TP1 pid=7) ERROR 11-21 15:46:57 [x.py:1] torch.OutOfMemoryError: CUDA out of memory.",
        "(EngineCore_DP0 pid=7) ERROR 11-21 15:46:57 [core.py:1510] AssertionError",
    ],
)
def test_errors_of_other_machines_are_known_by_their_form(line) -> None:
    assert re.search(CAUSE_HINT, line)


@pytest.mark.parametrize(
    "text",
    ["EngineCore failed to start.", "Traceback (most recent call last):", "    raise ValueError("],
)
def test_the_rest_of_a_traceback_is_no_reason(text) -> None:
    assert not re.search(CAUSE_HINT, f"(EngineCore pid=7) ERROR 11-21 15:46:57 [core.py:1] {text}")
