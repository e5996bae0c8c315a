from __future__ import annotations

import pytest

from enginery.enginecore import EngineCoreOutput, EngineCoreRequest, FinishReason
from enginery.enginecore.accepted import AcceptedRequests
from enginery.enginecore.failures import Failure
from enginery.errors import InvalidRequest


def endings(requests) -> list[tuple[str, FinishReason | None]]:
    return [(output.request_id, output.finish_reason) for output in requests.take_own()]


def test_an_id_that_is_unfinished_is_refused_with_its_name() -> None:
    requests = AcceptedRequests()
    requests.add("a")
    with pytest.raises(InvalidRequest, match="'a' is already running") as caught:
        requests.check_new("a")
    assert caught.value.param == "request_id"
    requests.abort(["a"])
    requests.check_new("a")


def test_aborting_tells_each_once_and_names_those_that_the_backend_has() -> None:
    requests = AcceptedRequests()
    requests.add("running")
    requests.hold(EngineCoreRequest("held", [1]))
    assert requests.abort(["running", "held", "running", "unknown"]) == (
        ["running", "held"],
        ["running"],
    )
    assert endings(requests) == [("running", FinishReason.ABORT), ("held", FinishReason.ABORT)]
    assert requests.abort(None) == ([], [])
    assert not requests.has_outputs
    assert (len(requests), requests.num_held) == (0, 0)


def test_held_requests_leave_in_the_order_in_which_they_came() -> None:
    requests = AcceptedRequests()
    for name in ("b", "a", "c"):
        requests.hold(EngineCoreRequest(name, [1]))
    requests.abort(["a"])
    assert [request.request_id for request in requests.take_held()] == ["b", "c"]
    assert requests.take_held() == []
    assert len(requests) == 2


def test_outputs_of_requests_that_have_ended_are_dropped() -> None:
    requests = AcceptedRequests()
    requests.add("a")
    requests.add("b")
    requests.abort(["b"])
    outputs: list[EngineCoreOutput] = []
    done = EngineCoreOutput("a", [2], finish_reason=FinishReason.STOP)
    requests.filter([EngineCoreOutput("b", [1]), done, EngineCoreOutput("a", [3])], outputs)
    assert outputs == [done]
    assert requests.finished[FinishReason.STOP] == 1


def test_failing_all_tells_held_and_running_ones_the_same_error() -> None:
    requests = AcceptedRequests()
    requests.add("a")
    requests.hold(EngineCoreRequest("b", [1]))
    requests.fail_all(Failure("EngineCrashed", "gone"))
    own = requests.take_own()
    assert sorted(output.request_id for output in own) == ["a", "b"]
    assert {output.error.message for output in own} == {"gone"}
