"""An engine core without a process around it, stepped by hand."""

from __future__ import annotations

from enginery.enginecore import (
    Capabilities,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
)
from enginery.enginecore.mock import create_backend
from enginery.errors import UnsupportedOperation
from support.outputs import by_request


class Answers:
    """Takes a call's reply; it must come exactly once."""

    def __init__(self) -> None:
        self.got: list[tuple] = []

    def __call__(self, result, error) -> None:
        self.got.append((result, error))

    @property
    def result(self):
        ((result, error),) = self.got
        if error is not None:
            raise error
        return result


def call(core, method, **args):
    """A call whose answer comes at once."""
    answer = Answers()
    core.utility(method, args, answer)
    return answer.result


def later(core, method, **args) -> Answers:
    answer = Answers()
    core.utility(method, args, answer)
    return answer


def core_of(backend=None, **options) -> EngineCore:
    return EngineCore(backend or create_backend(text=False, **options), log_stats=False)


def request(name="a", tokens=(1, 2, 3), **params) -> EngineCoreRequest:
    return EngineCoreRequest(name, list(tokens), sampling_params=SamplingParams(**params))


def run(core, most=1000) -> dict[str, EngineCoreOutput]:
    """Step until nothing is left; everything each request gained, as one output."""
    seen: list[EngineCoreOutput] = []
    for _ in range(most):
        if not core.has_work():
            return by_request(seen)
        seen += core.step(0.0).outputs
    raise AssertionError("it does not come to an end")


def reasons(whole) -> dict[str, FinishReason | None]:
    return {name: output.finish_reason for name, output in whole.items()}


class Scripted:
    """A backend that says what a test tells it."""

    capabilities = Capabilities(100, accepts=frozenset({"tokens"}), utilities=("greet",))

    def __init__(self) -> None:
        self.live: list[str] = []
        self.says: list[list[EngineCoreOutput]] = []
        self.raises: dict[str, Exception] = {}
        self.calls: list[tuple] = []

    def _maybe(self, where) -> None:
        if where in self.raises:
            raise self.raises[where]

    def add_request(self, request) -> None:
        self._maybe("add_request")
        self.live.append(request.request_id)

    def abort_requests(self, ids) -> list[str]:
        self._maybe("abort_requests")
        self.calls.append(("abort", list(ids)))
        self.live = [each for each in self.live if each not in ids]
        return list(ids)

    def step(self, timeout) -> list[EngineCoreOutput]:
        self._maybe("step")
        return self.says.pop(0) if self.says else []

    def has_work(self) -> bool:
        return bool(self.live or self.says)

    def wake_fd(self) -> None:
        return None

    def utility(self, method, args):
        self._maybe(method)
        if method == "greet":
            return f"hello {args['name']}"
        if method == "get_stats":
            return {"own": 5, "text": "not a number"}
        raise UnsupportedOperation(method)

    def shutdown(self) -> None:
        self._maybe("shutdown")
        self.calls.append(("shutdown",))
