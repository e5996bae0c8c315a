"""``/metrics``: the gateway's numbers in Prometheus' text, and those of the engines with their model's name.

Knows: names, help texts and labels. Does not know: when anything is counted (`metrics`). Engines are asked in the
background, within bounds; the page shows what they said last and waits for none of them longer than `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from time import monotonic

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from enginery.engine.inspection import Inspection
from enginery.engine.status import InstanceStatus
from enginery.errors import EngineryError
from enginery.gateway.answers import own_version
from enginery.gateway.metrics import Histogram, Metrics, Series
from enginery.lifecycle import State
from enginery.values import RunningEngine, Variant

__all__ = ["EngineMetrics", "Exposition"]

PATIENCE = 0.5
"""Seconds for which the page waits for engines that are asked just then."""

FRESH = 5.0
"""Seconds for which what an engine said is not asked for again."""

ASK_TIMEOUT = 2.0
LARGEST_PAGE = 4 * 2**20

log = logging.getLogger("enginery.gateway")

_PREFIX = "enginery_"
_LABELS = ("model", "engine", "variant")


class EngineMetrics:
    """The engines' own numbers, remembered.

    Args:
        running: the engines that serve now.
        patience, fresh: seconds; see the module's constants.
    """

    def __init__(
        self,
        running: Callable[[], Sequence[RunningEngine]],
        *,
        patience: float = PATIENCE,
        fresh: float = FRESH,
    ) -> None:
        self._running = running
        self._patience = patience
        self._fresh = fresh
        self._asking: asyncio.Task[None] | None = None
        self._asked = float("-inf")
        self._families: list[Metric] = []

    async def families(self) -> list[Metric]:
        """What they said last, each sample with its model, engine and variant."""
        now = monotonic()
        if self._asking is None and now - self._asked >= self._fresh:
            self._asked = now
            self._asking = asyncio.create_task(self._ask(), name="engines' metrics")
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=self._patience)
        return self._families

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        try:
            engines = self._running()
            pages = await asyncio.gather(*map(_page, engines))
            told = [(e.variant, page) for e, page in zip(engines, pages, strict=True) if page]
            self._families = await asyncio.to_thread(_relabelled, told)
        finally:
            self._asking = None


async def _page(engine: RunningEngine) -> str:
    """An engine's page; nothing where it has none."""
    try:
        reply = await engine.get("/metrics", ASK_TIMEOUT)
    except EngineryError:
        return ""
    plain = reply.headers.get("content-type", "").startswith(
        ("text/plain", "application/openmetrics")
    )
    fits = reply.status == 200 and plain and len(reply.body) <= LARGEST_PAGE
    return reply.body.decode("utf-8", "replace") if fits else ""


def _relabelled(pages: Iterable[tuple[Variant, str]]) -> list[Metric]:
    """One family for each name, with the samples of all engines; a page that is none is left out."""
    found: dict[str, Metric] = {}
    for variant, page in pages:
        own = dict(zip(_LABELS, _labels(variant), strict=True))
        try:
            families = list(text_string_to_metric_families(page))
        except Exception as error:  # noqa: BLE001  # the parser fails in many ways, and the page is an engine's affair
            log.debug("%s: its metrics cannot be read: %s", variant.id, error)
            continue
        for family in families:
            if family.name.startswith(_PREFIX):
                continue
            one = found.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                theirs = {
                    f"exported_{name}" if name in own else name: value
                    for name, value in sample.labels.items()
                }
                one.samples.append(sample._replace(labels={**own, **theirs}))
            if one.type != family.type:
                one.type = "unknown"
    return list(found.values())


class Exposition:
    """The page.

    Args:
        metrics: what was counted.
        inspection, status: what there is now.
    """

    def __init__(
        self,
        metrics: Metrics,
        inspection: Inspection,
        status: Callable[[], Sequence[InstanceStatus]],
    ) -> None:
        self._metrics = metrics
        self._inspection = inspection
        self._status = status
        self.engines = EngineMetrics(inspection.running)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its content type, in the format that ``accept`` prefers."""
        theirs = await self.engines.families()
        free = await self._inspection.free_memory()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once([*self._ours(), _free_memory(free), *theirs]))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _ours(self) -> Iterator[Metric]:
        rows, every = self._status(), list(self._metrics.series.values())
        yield from self._requests(every)
        yield from self._now(rows)
        yield from _engines(every, rows)
        lag = GaugeMetricFamily(
            _PREFIX + "event_loop_lag_seconds", "How late the event loop was, the worst of 15 s."
        )
        lag.add_metric([], self._metrics.lag)
        yield lag
        build = GaugeMetricFamily(
            _PREFIX + "build_info", "1; what runs here.", labels=("version", "python")
        )
        build.add_metric([own_version(), ".".join(map(str, sys.version_info[:3]))], 1)
        yield build

    def _requests(self, every: Sequence[Series]) -> Iterator[Metric]:
        total = CounterMetricFamily(
            _PREFIX + "requests",
            "Requests by what became of them; a stream that broke off has its error's status, 499: the "
            "client left first.",
            labels=(*_LABELS, "route", "code"),
        )
        gone = _counter("client_disconnects", "Clients that left before the end of their reply.")
        prompt = _counter("prompt_tokens", "Prompt tokens, as far as engines tell.")
        generated = _counter("generation_tokens", "Generated tokens, as far as engines tell.")
        for series in every:
            labels = _labels(series.variant)
            for (route, code), count in sorted(series.codes.items()):
                total.add_metric([*labels, route, str(code)], count)
            gone.add_metric(labels, series.disconnects)
            prompt.add_metric(labels, series.prompt_tokens)
            generated.add_metric(labels, series.generation_tokens)
        for (model, route, code), count in sorted(self._metrics.unserved.items()):
            total.add_metric([model, "", "", route, str(code)], count)
        for model, count in sorted(self._metrics.unserved_disconnects.items()):
            gone.add_metric([model, "", ""], count)
        yield from (total, gone, prompt, generated)
        for name, help_, values in (
            ("queue_wait_seconds", "Waited for an engine, its load included.", "queue_wait"),
            ("time_to_first_token_seconds", "To a stream's first token, waiting included.", "ttft"),
            ("inter_token_latency_seconds", "Between tokens: a stream's mean for each.", "itl"),
            ("e2e_request_latency_seconds", "From the request to its reply's end.", "e2e"),
            ("gateway_overhead_seconds", "In the gateway, before the engine has it.", "overhead"),
        ):
            family = HistogramMetricFamily(_PREFIX + name, help_, labels=_LABELS)
            for series in every:
                _add(family, _labels(series.variant), getattr(series, values))
            yield family

    def _now(self, rows: Sequence[InstanceStatus]) -> Iterator[Metric]:
        flight = _gauge("requests_in_flight", "Requests that an engine has.")
        for row in rows:
            flight.add_metric([row.model, row.engine, row.variant], row.in_flight)
        waiting = GaugeMetricFamily(
            _PREFIX + "requests_waiting", "Requests that wait for an engine.", labels=("model",)
        )
        counts = self._inspection.waiting()
        for model in sorted({*counts, *(row.model for row in rows)}):
            waiting.add_metric([model], counts[model])
        yield from (flight, waiting)


def _engines(every: Sequence[Series], rows: Sequence[InstanceStatus]) -> Iterator[Metric]:
    state = _gauge("engine_state", "1 for the state that the engine is in.", "state")
    memory = _gauge("memory_bytes", "Bytes that an engine holds on a device.", "device")
    for row in rows:
        labels = [row.model, row.engine, row.variant]
        for one in State:
            state.add_metric([*labels, str(one)], int(row.state == one))
        for device, size in sorted((row.memory or {}).items()):
            memory.add_metric([*labels, device], size)
    starts = _counter("engine_starts", "Starts and wakes by outcome.", "outcome")
    start_s = HistogramMetricFamily(
        _PREFIX + "engine_start_seconds", "From the start to ready.", labels=_LABELS
    )
    swap_s = HistogramMetricFamily(
        _PREFIX + "swap_seconds", "Each phase of a swap.", labels=(*_LABELS, "phase")
    )
    for series in every:
        labels = _labels(series.variant)
        for outcome, count in sorted(series.starts.items()):
            starts.add_metric([*labels, outcome], count)
        _add(start_s, labels, series.start_s)
        for phase, histogram in sorted(series.swap_s.items()):
            _add(swap_s, [*labels, phase], histogram)
    yield from (state, memory, starts, start_s, swap_s)


def _free_memory(free: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "memory_free_bytes", "Free bytes of a device.", labels=("device",)
    )
    for device, size in sorted(free.items()):
        family.add_metric([device], size)
    return family


class _Once(Collector):
    """Families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        return self._families


def _counter(name: str, help_: str, *more: str) -> CounterMetricFamily:
    return CounterMetricFamily(_PREFIX + name, help_, labels=(*_LABELS, *more))


def _gauge(name: str, help_: str, *more: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, help_, labels=(*_LABELS, *more))


def _add(family: HistogramMetricFamily, labels: list[str], values: Histogram) -> None:
    bounds = [*map(repr, values.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(values.counts), strict=True))
    family.add_metric(labels, buckets=buckets, sum_value=values.sum)


def _labels(variant: Variant) -> list[str]:
    return [variant.model, variant.engine_type, variant.name]
