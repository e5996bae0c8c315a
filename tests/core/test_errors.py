"""The error tree is an interface: statuses, codes and parents never change."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from enginery import errors
from enginery.errors import (
    ContextLengthExceeded,
    EngineError,
    EngineryError,
    EngineStartFailed,
    EngineTimeout,
    QueueFull,
)

TABLE = {
    "EngineryError": (500, "internal_error", "server_error"),
    "ConfigError": (500, "config_error", "server_error"),
    "PluginError": (502, "plugin_error", "server_error"),
    "InvalidRequest": (400, "invalid_request_error", "invalid_request_error"),
    "ContextLengthExceeded": (400, "context_length_exceeded", "invalid_request_error"),
    "MethodNotAllowed": (405, "method_not_allowed", "invalid_request_error"),
    "BodyTooLarge": (413, "body_too_large", "invalid_request_error"),
    "RequestTimeout": (408, "request_timeout", "server_error"),
    "UnsupportedMediaType": (415, "unsupported_media_type", "invalid_request_error"),
    "AuthenticationFailed": (401, "invalid_api_key", "authentication_error"),
    "AccessDenied": (403, "admin_required", "permission_error"),
    "ModelNotFound": (404, "model_not_found", "not_found_error"),
    "EndpointNotSupported": (404, "endpoint_not_supported", "not_found_error"),
    "QueueFull": (429, "queue_full", "rate_limit_error"),
    "UnsupportedOperation": (501, "unsupported_operation", "server_error"),
    "ShuttingDown": (503, "shutting_down", "server_error"),
    "EngineError": (502, "engine_error", "server_error"),
    "EngineStartFailed": (502, "engine_start_failed", "server_error"),
    "EngineCrashed": (502, "engine_crashed", "server_error"),
    "BadEngineReply": (502, "bad_engine_reply", "server_error"),
    "EngineUnreachable": (502, "engine_unreachable", "server_error"),
    "EngineEvicted": (503, "engine_evicted", "server_error"),
    "EngineQuarantined": (503, "engine_quarantined", "server_error"),
    "EngineLoading": (503, "engine_loading", "server_error"),
    "EngineBusy": (503, "engine_busy", "server_error"),
    "EngineLeaked": (500, "engine_leaked", "server_error"),
    "EngineTimeout": (504, "engine_timeout", "server_error"),
}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, EngineryError) and name == value.__name__
}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_class_has_its_status_code_and_type(name) -> None:
    error = CLASSES[name]("why")
    assert (error.status, error.code, error.type) == TABLE[name]
    assert error.message == "why" == str(error)


def test_the_table_is_complete_and_codes_are_unique() -> None:
    assert set(TABLE) == set(CLASSES)
    assert len({code for _, code, _ in TABLE.values()}) == len(TABLE)


def test_public_names_are_sorted_and_are_the_classes_and_two_aliases() -> None:
    assert sorted(errors.__all__) == errors.__all__
    assert set(errors.__all__) == {*CLASSES, "EngineDeadError", "EngineClosedError"}
    assert errors.EngineDeadError is errors.EngineCrashed
    assert errors.EngineClosedError is errors.ShuttingDown


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Each class in the docstring's drawing, with its parent there and what is said of it."""
    path: list[tuple[int, str]] = []
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^( +)(?:[│ ]*[├└]─ )?([A-Z]\w+)(?: {2,}(.*))?$", line)
        if match is None:
            continue
        depth = match.start(2)
        path = [(d, n) for d, n in path if d < depth]
        found[match[2]] = (path[-1][1] if path else None, match[3] or "")
        path.append((depth, match[2]))
    return found


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    real = {
        name: None if cls is EngineryError else cls.__bases__[0].__name__
        for name, cls in CLASSES.items()
    }
    assert {name: parent for name, (parent, _) in drawn_tree().items()} == real


def test_the_statuses_in_the_drawing_are_the_real_ones() -> None:
    drawn = {name: re.match(r"\d{3}", text) for name, (_, text) in drawn_tree().items()}
    assert {n: int(m[0]) for n, m in drawn.items() if m} == {
        name: TABLE[name][0] for name, match in drawn.items() if match
    }
    assert sum(match is not None for match in drawn.values()) == len(TABLE) - 4


def test_every_error_is_documented() -> None:
    assert all(cls.__doc__ for cls in CLASSES.values())


def test_a_timeout_of_ours_is_a_timeout_error() -> None:
    assert issubclass(EngineTimeout, TimeoutError)
    with pytest.raises(TimeoutError):
        raise EngineTimeout("too late")


def test_an_error_carries_what_a_reply_needs() -> None:
    error = QueueFull("512 requests wait", param="model", code="other", retry_after=3.0)
    assert (error.param, error.code, error.retry_after) == ("model", "other", 3.0)
    assert QueueFull.code == "queue_full"
    overflow = ContextLengthExceeded(
        "too long", prompt_tokens=9, context_length=8, param="messages"
    )
    assert (overflow.prompt_tokens, overflow.context_length) == (9, 8)


def test_an_engines_last_words_are_in_the_message_without_its_empty_lines() -> None:
    error = EngineStartFailed("exit status 1", log_tail=["", "out of memory", "  "])
    assert error.message == "exit status 1\nlast lines of its log:\n  out of memory"
    assert error.log_tail == ("", "out of memory", "  ")
    assert EngineError("no log").message == "no log"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_errors_survive_the_way_between_processes(name) -> None:
    error = CLASSES[name]("why")
    error.param = "model"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.param, copy.code) == ("why", "model", error.code)


class NeedsDriver(EngineStartFailed):
    """As a plugin may write one: other arguments, another shape."""

    def __init__(self, driver: str, *, hint: str) -> None:
        super().__init__(f"{driver} is missing: {hint}", log_tail=["no device"])
        self.driver = driver


@pytest.mark.parametrize(
    "error",
    [
        EngineTimeout("too late", log_tail=["loading"], retry_after=3.0),
        NeedsDriver("cuda", hint="install it"),
        ContextLengthExceeded("too long", prompt_tokens=9, context_length=8),
    ],
)
def test_an_error_can_be_raised_again_for_another_waiter(error) -> None:
    error.__cause__ = ValueError("deeper")
    twin = error.again()
    assert twin is not error
    assert type(twin) is type(error)
    assert str(twin) == str(error) != ""
    assert vars(twin) == vars(error)
    assert twin.__cause__ is error.__cause__
