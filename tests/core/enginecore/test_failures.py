from __future__ import annotations

import msgspec
import pytest

from enginery import errors
from enginery.enginecore.failures import Failure, failure_from, failure_to_error
from enginery.errors import (
    AccessDenied,
    BadEngineReply,
    ContextLengthExceeded,
    EngineCrashed,
    EngineError,
    EngineTimeout,
    InvalidRequest,
    QueueFull,
)


def there_and_back(error: BaseException) -> Exception:
    sent = msgspec.msgpack.encode(failure_from(error))
    return failure_to_error(msgspec.msgpack.decode(sent, type=Failure))


@pytest.mark.parametrize("name", sorted(errors.__all__))
def test_every_error_of_the_tree_arrives_as_itself(name) -> None:
    arrived = there_and_back(getattr(errors, name)("no luck", param="prompt"))
    assert type(arrived) is getattr(errors, name)
    assert (str(arrived), arrived.message, arrived.param) == ("no luck", "no luck", "prompt")


def test_the_fields_of_an_error_arrive() -> None:
    assert there_and_back(QueueFull("full", retry_after=2.5)).retry_after == 2.5
    assert there_and_back(AccessDenied("who?", code="forbidden_host")).code == "forbidden_host"
    long = there_and_back(ContextLengthExceeded("long", prompt_tokens=9, context_length=8))
    assert (long.prompt_tokens, long.context_length) == (9, 8)
    # the constructor adds the log to the message: once is enough
    crashed = there_and_back(EngineCrashed("gone", log_tail=["last words"]))
    assert crashed.log_tail == ("last words",)
    assert str(crashed).count("last words") == 1


def test_built_in_errors_of_a_call_arrive_as_themselves() -> None:
    for kind in (ValueError, TypeError, RuntimeError, NotImplementedError, TimeoutError):
        arrived = there_and_back(kind("why"))
        assert type(arrived) is kind
        assert str(arrived) == "why"


def test_other_errors_keep_their_name_in_the_message() -> None:
    class Odd(Exception):
        pass

    arrived = there_and_back(Odd("strange"))
    assert type(arrived) is EngineError
    assert str(arrived) == "Odd: strange"
    assert str(there_and_back(Odd())) == "Odd"


def test_a_subclass_arrives_as_the_nearest_class_that_is_known() -> None:
    class MyReply(BadEngineReply):
        pass

    assert type(there_and_back(MyReply("x"))) is BadEngineReply
    assert type(there_and_back(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))) is ValueError


def test_errors_that_are_two_things_still_are() -> None:
    assert isinstance(there_and_back(EngineTimeout("slow")), TimeoutError)
    assert isinstance(there_and_back(InvalidRequest("no")), ValueError)
