"""What the gateway counts: plain integers, so that counting costs a request next to nothing.

Knows: what of a finished request and of an engine's change of state is counted, under which names. Does not
know: how it is printed (`exposition`). Labels are a model's, an engine's and a variant's names, a known route and
a status; never anything that a client made up, so their number is bounded by the settings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence

from enginery.api.endings import api_of
from enginery.engine.events import EngineEvent
from enginery.gateway.inference import Finished
from enginery.lifecycle import State
from enginery.values import Variant

__all__ = ["CLIENT_GONE", "Histogram", "Metrics", "Series"]

CLIENT_GONE = 499
"""Counted as the status where the client left before there was one; as nginx logs it."""

OTHER = "other"
"""The route of requests that no engine has."""

WAITS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
"""Seconds; vLLM's buckets for the time to the first token, so that its dashboards fit."""

TOKENS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
"""Seconds between two tokens."""

OVERHEADS = (
    0.00005,
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    1.0,
)
"""Seconds that a request spends in the gateway itself."""

LAGS = 30
"""Looks at the loop's lag of which the worst is shown."""

_LOADING = frozenset({State.STARTING, State.WAKING})
_LEAVING = frozenset({State.STOPPING, State.GOING_TO_SLEEP})
_LEFT = frozenset({State.STOPPED, State.ASLEEP})


class Histogram:
    """How many values fell into which bucket; the last takes what is above all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """``value`` came ``times`` times; a bound itself belongs to its bucket."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Series:
    """One variant's numbers."""

    __slots__ = (
        *("codes", "disconnects", "e2e", "generation_tokens", "itl", "overhead", "prompt_tokens"),
        *("queue_wait", "starts", "start_s", "swap_s", "ttft", "variant"),
    )

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.codes: dict[tuple[str, int], int] = {}
        self.disconnects = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.queue_wait = Histogram(WAITS)
        self.ttft = Histogram(WAITS)
        self.itl = Histogram(TOKENS)
        self.e2e = Histogram(WAITS)
        self.overhead = Histogram(OVERHEADS)
        self.starts: Counter[str] = Counter()
        self.start_s = Histogram(WAITS)
        self.swap_s: dict[str, Histogram] = {}


class Metrics:
    """All numbers of one gateway."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        """By the variant's id."""
        self.unserved: Counter[tuple[str, str, int]] = Counter()
        """Requests that no engine got, by model (where it exists), route and status."""
        self.unserved_disconnects: Counter[str] = Counter()
        """Clients that left before an engine had their request, by model."""
        self._lags: deque[float] = deque(maxlen=LAGS)

    @property
    def lag(self) -> float:
        """Seconds by which the event loop was late, at worst, in the last looks."""
        return max(self._lags, default=0.0)

    def late(self, seconds: float) -> None:
        """The loop came so much later than it was asked to."""
        self._lags.append(max(0.0, seconds))

    # -- requests ------------------------------------------------------------------------------

    def finished(self, done: Finished) -> None:
        """One request is over; called for each, whatever became of it."""
        variant, reply, error = done.variant, done.reply, done.error
        if variant is None:
            self._unserved(done)
            return
        series = self.series.get(variant.id) or self._of(variant)
        waited = done.queue_s + done.swap_s
        series.queue_wait.observe(waited)
        if reply is None:
            code = CLIENT_GONE if error is None else error.status
            series.disconnects += error is None
        else:
            code = reply.status if reply.error is None else reply.error.status
            before = done.overhead_s + waited
            series.e2e.observe(before + reply.total_s)
            series.overhead.observe(done.overhead_s)
            usage, first = reply.usage, reply.first_byte_s
            tokens = 0
            if usage is not None:
                series.prompt_tokens += usage.prompt_tokens or 0
                tokens = usage.completion_tokens or 0
                series.generation_tokens += tokens
            if done.stream and first is not None:
                series.ttft.observe(before + first)
                if tokens > 1:  # the mean, once for each pause
                    series.itl.observe((reply.total_s - first) / (tokens - 1), tokens - 1)
        key = done.path, code
        series.codes[key] = series.codes.get(key, 0) + 1

    def refused(self, path: str, code: int) -> None:
        """Somebody was turned away at the door."""
        self.unserved["", _route(path), code] += 1

    def _unserved(self, done: Finished) -> None:
        code = CLIENT_GONE if done.error is None else done.error.status
        self.unserved[done.model, _route(done.path), code] += 1
        if done.error is None:
            self.unserved_disconnects[done.model] += 1

    # -- engines -------------------------------------------------------------------------------

    def heard(self, event: EngineEvent, variant: Variant | None) -> None:
        """An ``instance.state``; ``variant`` is the one that it is about."""
        if event.type != "instance.state" or variant is None:
            return
        series = self.series.get(variant.id) or self._of(variant)
        before, after = State(event.data["before"]), State(event.data["state"])
        seconds, settled = float(event.data["seconds"]), float(event.data["settle_s"])
        if before in _LOADING:
            outcome = {State.READY: "ok", State.FAILED: "failed"}.get(after, "stopped")
            series.starts[outcome] += 1
            if outcome == "ok":
                series.start_s.observe(seconds)
                _phase(series, "start", seconds)
        elif before is State.DRAINING:
            _phase(series, "drain", seconds)
        elif before in _LEAVING and after in _LEFT:
            _phase(series, "stop", max(0.0, seconds - settled))
            if settled:
                _phase(series, "settle", settled)

    def _of(self, variant: Variant) -> Series:
        series = self.series[variant.id] = Series(variant)
        return series


def _phase(series: Series, phase: str, seconds: float) -> None:
    series.swap_s.setdefault(phase, Histogram(WAITS)).observe(seconds)


def _route(path: str) -> str:
    """``path``, where it is one that engines have; any other is a client's invention."""
    known = api_of(path) != "other" or path in {"/v1/embeddings", "/v1/rerank"}
    return path if known else OTHER
