"""What is counted, and how it is printed: no sockets, engines only as values."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from enginery.api.endings import Usage
from enginery.engine.events import EngineEvent
from enginery.engine.seam import Outcome
from enginery.errors import EngineCrashed, EngineUnreachable, ModelNotFound
from enginery.gateway.exposition import EngineMetrics, Exposition, _Once
from enginery.gateway.inference import Finished
from enginery.gateway.metrics import CLIENT_GONE, Histogram, Metrics
from enginery.gateway.sent import Reply
from enginery.values import Endpoint, EngineReply, RunningEngine, Variant

ONE, TWO = (Variant(name, engine_type="mock") for name in ("one", "two"))
CHAT = "/v1/chat/completions"


def done(variant: Variant | None = ONE, **how: Any) -> Finished:
    return Finished(CHAT, "one", variant, **{"queue_s": 0.0, "swap_s": 0.0, **how})


def reply(**how: Any) -> Reply:
    return Reply(
        **{"status": 200, "outcome": Outcome.OK, "keep_alive": True, "total_s": 1.0, **how}
    )


# -- counting ---------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 10), max_size=30))
def test_a_histogram_holds_each_value_in_the_first_bucket_that_reaches_it(
    values: list[float],
) -> None:
    bounds = (0.5, 1.0, 5.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    at_most = [sum(value <= bound for value in values) for bound in bounds]
    assert [sum(histogram.counts[: n + 1]) for n in range(3)] == at_most
    assert sum(histogram.counts) == len(values)
    assert histogram.sum == pytest.approx(sum(values))


def test_a_stream_counts_its_waiting_its_tokens_and_its_pauses() -> None:
    metrics = Metrics()
    usage = Usage(prompt_tokens=7, completion_tokens=5)
    told = reply(first_byte_s=0.2, total_s=1.0, usage=usage)
    metrics.finished(done(queue_s=1.0, swap_s=2.0, overhead_s=0.5, stream=True, reply=told))
    series = metrics.series[ONE.id]
    assert (series.prompt_tokens, series.generation_tokens) == (7, 5)
    assert series.ttft.sum == pytest.approx(3.7)
    assert series.e2e.sum == pytest.approx(4.5)
    assert series.queue_wait.sum == pytest.approx(3.0)
    assert (sum(series.itl.counts), series.itl.sum) == (4, pytest.approx(0.8))
    assert series.codes == {(CHAT, 200): 1}


def test_a_reply_that_is_no_stream_has_no_first_token() -> None:
    metrics = Metrics()
    metrics.finished(done(reply=reply(first_byte_s=0.2, usage=Usage(1, 9))))
    assert sum(metrics.series[ONE.id].ttft.counts) == 0
    assert sum(metrics.series[ONE.id].itl.counts) == 0


def test_each_end_has_its_code() -> None:
    metrics = Metrics()
    metrics.finished(done())  # the client left
    metrics.finished(done(error=EngineCrashed("gone")))
    metrics.finished(done(reply=reply(error=EngineCrashed("gone"))))  # after its head
    metrics.finished(done(reply=reply(status=404)))
    series = metrics.series[ONE.id]
    assert series.codes == {(CHAT, CLIENT_GONE): 1, (CHAT, 502): 2, (CHAT, 404): 1}
    assert series.disconnects == 1


def test_what_clients_make_up_is_no_label() -> None:
    metrics = Metrics()
    for number in range(50):
        error = ModelNotFound("no")
        metrics.finished(Finished(f"/made/up/{number}", "", None, 0.0, 0.0, None, error))
        metrics.refused(f"/another/{number}", 401)
    assert dict(metrics.unserved) == {("", "other", 404): 50, ("", "other", 401): 50}
    assert not metrics.series


def moved(before: str, state: str, seconds: float, settle_s: float = 0.0) -> EngineEvent:
    data = {"before": before, "state": state, "seconds": seconds, "settle_s": settle_s}
    return EngineEvent(1, 0.0, "instance.state", "one", ONE.id, data)


def test_states_become_starts_and_phases() -> None:
    metrics = Metrics()
    for event in (
        moved("stopped", "starting", 9.0),
        moved("starting", "ready", 2.0),
        moved("ready", "draining", 60.0),
        moved("draining", "stopping", 0.5),
        moved("stopping", "stopped", 3.0, settle_s=1.0),
        moved("starting", "failed", 1.0),
        moved("starting", "stopping", 1.0),
        moved("waking", "ready", 0.25),
    ):
        metrics.heard(event, ONE)
    series = metrics.series[ONE.id]
    assert series.starts == {"ok": 2, "failed": 1, "stopped": 1}
    sums = {phase: histogram.sum for phase, histogram in series.swap_s.items()}
    assert sums == {"start": 2.25, "drain": 0.5, "stop": 2.0, "settle": 1.0}
    metrics.heard(moved("starting", "ready", 1.0), None)  # a variant that is gone: nothing


def test_the_lag_that_is_shown_is_the_worst_of_late() -> None:
    metrics = Metrics()
    for late in (0.3, -0.1, *[0.01] * 10):
        metrics.late(late)
    assert metrics.lag == 0.3
    for _ in range(30):
        metrics.late(0.01)
    assert metrics.lag == 0.01


# -- engines' own -----------------------------------------------------------------------------------

PAGE = """\
# HELP llm:tokens_total Tokens.
# TYPE llm:tokens_total counter
llm:tokens_total{model="inner",slot="0"} 3.0
# TYPE llm:oddly_named counter
llm:oddly_named 5.0
# TYPE llm:busy gauge
llm:busy 1.0
# TYPE enginery_requests_total counter
enginery_requests_total 99.0
"""


def engine(variant: Variant, answer: Any) -> RunningEngine:
    async def transport(method: str, path: str, body: Any, timeout: float | None) -> EngineReply:
        assert (method, path) == ("GET", "/metrics")
        return await answer()

    return RunningEngine(variant, Endpoint("127.0.0.1", 1), 1, transport, "/health")


def says(text: str | bytes, status: int = 200, kind: str = "text/plain; version=0.0.4") -> Any:
    async def answer() -> EngineReply:
        body = text if isinstance(text, bytes) else text.encode()
        return EngineReply(status, {"content-type": kind}, body)

    return answer


async def unreachable() -> EngineReply:
    raise EngineUnreachable("gone")


def printed(families: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(families))
    page = generate_latest(registry).decode()
    assert len([line for line in page.splitlines() if line.startswith("# TYPE llm:busy")]) <= 1
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_engines_numbers_get_their_models_name_and_ours_are_not_overwritten() -> None:
    engines = [engine(ONE, says(PAGE)), engine(TWO, says("# TYPE llm:busy gauge\nllm:busy 0\n"))]
    found = printed(await EngineMetrics(lambda: engines).families())
    one, two = (("engine", "mock"), ("model", "one")), (("engine", "mock"), ("model", "two"))
    default = ("variant", "default")
    assert found == {
        (
            "llm:tokens_total",
            (one[0], ("exported_model", "inner"), one[1], ("slot", "0"), default),
        ): 3,
        ("llm:oddly_named_total", (*one, default)): 5,  # as Prometheus itself would read it
        ("llm:busy", (*one, default)): 1,
        ("llm:busy", (*two, default)): 0,
    }


@pytest.mark.parametrize(
    "answer",
    [
        unreachable,
        says("{}", kind="application/json"),
        says("not found", status=404),
        says("# TYPE x histogram\nx_bucket{le=\n\x00"),
        says(b"\xff\xfe{}"),
        says("x" * (5 * 2**20)),
        says(""),
    ],
)
async def test_an_engine_without_a_page_or_with_a_bad_one_takes_nothing_from_the_others(
    answer,
) -> None:
    engines = [engine(ONE, answer), engine(TWO, says("llm:busy 1\n"))]
    found = printed(await EngineMetrics(lambda: engines).families())
    assert list(found) == [
        ("llm:busy", (("engine", "mock"), ("model", "two"), ("variant", "default")))
    ]


async def test_the_page_does_not_wait_for_an_engine_that_does_not_answer() -> None:
    hangs, asked = asyncio.Event(), 0

    async def answer() -> EngineReply:
        nonlocal asked
        asked += 1
        await hangs.wait()
        return await says("llm:busy 1\n")()

    engines = EngineMetrics(lambda: [engine(ONE, answer)], patience=0.01, fresh=0.0)
    for _ in range(3):
        assert await engines.families() == []
    assert asked == 1  # nor is it asked again and again
    hangs.set()
    while not await engines.families():
        pass
    engines.close()


async def test_what_an_engine_said_is_remembered_for_a_while() -> None:
    asked = 0

    async def answer() -> EngineReply:
        nonlocal asked
        asked += 1
        return await says("llm:busy 1\n")()

    engines = EngineMetrics(lambda: [engine(ONE, answer)], patience=30, fresh=1000.0)
    for _ in range(5):
        assert len(await engines.families()) == 1
    assert asked == 1


# -- the page ---------------------------------------------------------------------------------------


async def test_every_number_is_in_the_documentation_and_no_other() -> None:
    class Nobody:
        def running(self) -> list[RunningEngine]:
            return []

        def waiting(self) -> Counter[str]:
            return Counter()

        async def free_memory(self) -> dict[str, int]:
            return {}

    nobody: Any = Nobody()
    page, _ = await Exposition(Metrics(), nobody, list).page("")
    printed = set(re.findall(r"^# TYPE enginery_(\w+) ", page.decode(), re.MULTILINE))
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    table = text.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)", row)} == printed
