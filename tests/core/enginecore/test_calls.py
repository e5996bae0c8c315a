from __future__ import annotations

import inspect

import pytest

from enginery.enginecore.calls import CALLS, checked_arguments
from enginery.enginecore.controls import CoreControls
from enginery.enginecore.loop import EngineCore
from enginery.errors import InvalidRequest

RIGHT = [
    ("pause", {}),
    ("pause", {"mode": "wait", "clear_cache": True}),
    ("sleep", {"level": 0, "mode": "keep"}),
    ("wake_up", {"tags": None}),
    ("wake_up", {"tags": ["weights", "kv_cache", "scheduling"]}),
    ("wake_up", {"tags": []}),
    ("profile", {"is_start": False, "prefix": None, "max_iterations": None}),
    ("profile", {"prefix": "x", "max_iterations": 1}),
    ("reset_prefix_cache", {"reset_running_requests": True, "reset_connector": False}),
]
WRONG = [
    ("pause", "mode", "stop"),
    ("pause", "mode", []),
    ("pause", "clear_cache", 1),
    ("pause", "level", 1),
    ("resume", "mode", "abort"),
    ("sleep", "level", 3),
    ("sleep", "level", -1),
    ("sleep", "level", True),
    ("sleep", "level", "1"),
    ("sleep", "mode", None),
    ("wake_up", "tags", ["wieghts"]),
    ("wake_up", "tags", "weights"),
    ("wake_up", "tags", [["weights"]]),
    ("profile", "prefix", 1),
    ("profile", "max_iterations", 0),
    ("reset_prefix_cache", "reset_running_requests", None),
]


@pytest.mark.parametrize(("method", "args"), RIGHT)
def test_right_arguments_pass(method, args) -> None:
    assert checked_arguments(method, args) == args


@pytest.mark.parametrize(("method", "name", "value"), WRONG)
def test_a_wrong_argument_is_refused_by_its_name(method, name, value) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        checked_arguments(method, {name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("method", sorted(CALLS))
def test_every_call_is_a_method_with_these_arguments_each_with_a_default(method) -> None:
    found = getattr(EngineCore, method, None) or getattr(CoreControls, method)
    parameters = dict(inspect.signature(found).parameters)
    del parameters["self"]
    assert set(parameters) == set(CALLS[method])
    assert all(each.default is not inspect.Parameter.empty for each in parameters.values())
    assert found.__doc__
