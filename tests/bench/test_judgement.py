"""`benchmarks.judgement`: what is said of measured numbers."""

from __future__ import annotations

from benchmarks.gateway import BOUNDS, DISTURBED, Sample, summary, undisturbed
from benchmarks.judgement import Bound, verdicts

RESULTS = {"ours": {"cpu": 3.0, "rps": 90.0}, "other": {"cpu": 2.0, "rps": 100.0}}


def words(*bounds: Bound) -> tuple[list[str], bool]:
    rows, held = verdicts(bounds, RESULTS)
    return [row[-1] for row in rows], held


def test_a_gate_that_is_missed_fails_and_a_goal_is_only_reported() -> None:
    assert words(Bound("x", "ours", "cpu", "other", at_most=1.4, gate=True)) == (["NO"], False)
    assert words(Bound("x", "ours", "cpu", "other", at_most=1.4)) == (["NO"], True)
    assert words(Bound("x", "ours", "rps", "other", at_least=0.9, gate=True)) == (["yes"], True)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    missing = Bound("x", "ours", "cpu", "absent", at_most=1.0, gate=True)
    assert words(missing, Bound("x", "ours", "ttft", "other", at_most=1.0, gate=True)) == (
        ["not measured", "not measured"],
        True,
    )


def test_every_bound_has_one_limit() -> None:
    for bound in BOUNDS:
        assert (bound.at_most is None) is not (bound.at_least is None)
        assert bound.limit[0] in "≤≥"


def a_sample(noise: float = 0.0, cpu: float = 1.0, **seen: float) -> Sample:
    empty = {"requests": 1000, "chunks": 0, "p50": 100, "rps": 10, "errors": 0, "short": 0}
    return Sample({**empty, "ttft50": -1, "transit99": -1, **seen}, cpu, 2**20, noise)


def test_disturbed_samples_count_only_where_there_are_no_others() -> None:
    quiet, loud = a_sample(), a_sample(noise=2 * DISTURBED)
    assert undisturbed([loud, quiet]) == [quiet]
    assert undisturbed([loud]) == [loud]


def test_a_row_holds_medians_of_what_was_measured() -> None:
    samples = {
        "one": [a_sample(p50=150)],
        "many": [a_sample(cpu=cpu) for cpu in (1.0, 9.0, 2.0)],
    }
    row = summary(samples, direct_p50=100.0)
    assert row["added_us"] == 50.0
    assert row["ms_per_request"] == 2.0
    assert row["mib"] == 1.0
    assert "us_per_chunk" not in row
