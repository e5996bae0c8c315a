from __future__ import annotations

import msgspec
import pytest

from enginery.enginecore import (
    Capabilities,
    CoreState,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    SamplingParams,
)
from enginery.enginecore.failures import Failure
from enginery.errors import InvalidRequest

WRONG = [
    ({"request_id": "", "prompt": "hi"}, "request_id"),
    ({"request_id": 5, "prompt": "hi"}, "request_id"),
    ({}, "prompt"),
    ({"prompt": "hi", "prompt_token_ids": [1]}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt_token_ids": []}, "prompt_token_ids"),
    ({"prompt_token_ids": (1, 2)}, "prompt_token_ids"),
    ({"prompt_token_ids": [1, -1]}, "prompt_token_ids"),
    ({"prompt_token_ids": [2**31]}, "prompt_token_ids"),
    ({"prompt_token_ids": [True]}, "prompt_token_ids"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}, "hi"]}, r"messages[1]"),
    ({"messages": [{"content": "hi"}]}, r"messages[0]"),
    ({"prompt": "hi", "sampling_params": {"max_tokens": 1}}, "sampling_params"),
    ({"prompt": "hi", "priority": 1.5}, "priority"),
    ({"prompt": "hi", "priority": 2**40}, "priority"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_request_is_refused_by_the_name_of_its_field(fields, param) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EngineCoreRequest(**{"request_id": "a", **fields})
    assert caught.value.param == param
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"prompt_token_ids": [1]}, "tokens"),
        ({"prompt": "hi"}, "text"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
    ],
)
def test_a_request_knows_the_form_of_its_prompt(fields, form) -> None:
    request = EngineCoreRequest("a", **fields)
    assert request.form == form
    data = msgspec.msgpack.encode(request)
    assert msgspec.msgpack.decode(data, type=EngineCoreRequest) == request


def test_fields_that_an_older_reader_does_not_know_are_skipped() -> None:
    fields = msgspec.to_builtins(EngineCoreRequest("a", [1]))
    newer = msgspec.msgpack.encode([*fields, "a field of tomorrow"])
    assert msgspec.msgpack.decode(newer, type=EngineCoreRequest) == EngineCoreRequest("a", [1])


def test_fields_that_an_older_writer_does_not_send_have_their_defaults() -> None:
    assert msgspec.msgpack.decode(
        msgspec.msgpack.encode([4096]), type=Capabilities
    ) == Capabilities(4096)
    output = msgspec.msgpack.decode(msgspec.msgpack.encode(["a"]), type=EngineCoreOutput)
    assert output == EngineCoreOutput("a")


@pytest.mark.parametrize("reason", list(FinishReason))
def test_a_finish_reason_has_one_word_and_one_number(reason) -> None:
    assert str(reason) in {"stop", "length", "abort", "error"}
    output = EngineCoreOutput("a", finish_reason=reason)
    assert output.finished
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(output), type=EngineCoreOutput)
    assert back.finish_reason is reason


def test_an_error_travels_with_its_output() -> None:
    output = EngineCoreOutput(
        "a", finish_reason=FinishReason.ERROR, error=Failure("ValueError", "no")
    )
    batch = EngineCoreOutputs([output, EngineCoreOutput("b", [1])], 3, 1.5, CoreState.PAUSED)
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=EngineCoreOutputs)
    assert back == batch
    assert back.finished_requests == {"a"}


def test_outputs_and_sampling_params_share_no_default_list() -> None:
    first, second = EngineCoreOutput("a"), EngineCoreOutput("b")
    first.new_token_ids.append(1)
    assert second.new_token_ids == []
    assert EngineCoreRequest("a", [1]).sampling_params == SamplingParams()
