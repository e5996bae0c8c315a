"""`enginery_vllm.errors`: replies as vLLM 0.32 sends them."""

from __future__ import annotations

import json

import pytest

from enginery import (
    AuthenticationFailed,
    ContextLengthExceeded,
    EndpointNotSupported,
    EngineBusy,
    EngineCrashed,
    InvalidRequest,
    ModelNotFound,
)
from enginery_vllm.errors import parse_error

LONG = (
    "This model's maximum context length is 256 tokens. However, your prompt contains {} input tokens, which exceeds "
    "this limit even without any output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, "
    "value=257)"
)
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


def error(message, kind="BadRequestError", param=None, code=400):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def parsed(status, said):
    return parse_error(status, said if isinstance(said, bytes) else json.dumps(said).encode())


@pytest.mark.parametrize(
    ("said", "prompt", "words"),
    [
        (error(LONG.format("at least 257"), param="input_tokens"), 257, "at least 257"),
        (error(LONG.format("300"), param="input_tokens"), 300, "has 300"),
        (
            {"type": "error", "error": {"type": "BadRequestError", "message": LONG.format("300")}},
            300,
            "has 300",
        ),
        (
            error(
                "This model's maximum context length is 256 tokens. However, your prompt contains 2400000 characters "
                "(more than 7680 characters, which is the upper bound for 256 input tokens). Please reduce the length "
                "of the input prompt. (parameter=input_text, value=2400000)",
                param="input_text",
            ),
            257,
            "at least 257",
        ),
        (
            error(
                "This model's maximum context length is 256 tokens. However, you requested 500 tokens (400 in the "
                "messages, 100 in the completion). Please reduce the length of the messages or completion."
            ),
            400,
            "has 400",
        ),
    ],
)
def test_an_overflow_has_both_numbers(said, prompt, words) -> None:
    found = parsed(400, said)
    assert isinstance(found, ContextLengthExceeded)
    assert (found.prompt_tokens, found.context_length) == (prompt, 256)
    assert words in found.message


def test_a_reply_that_is_too_long_is_no_overflow_of_the_prompt() -> None:
    said = "max_tokens=8000 cannot be greater than max_model_len=256. (parameter=max_tokens, value=8000)"
    found = parsed(400, error(said, param="max_tokens"))
    assert type(found) is InvalidRequest
    assert found.param == "max_tokens"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (503, error(BUSY, "Service Unavailable", code=503), EngineBusy),
        (503, {"error": "The model is currently scaling. Please try again later."}, EngineBusy),
        (500, error(DEAD, "InternalServerError", code=500), EngineCrashed),
        (401, {"error": "Unauthorized"}, AuthenticationFailed),
        (404, {"detail": "Not Found"}, EndpointNotSupported),
        (
            404,
            error("The model `x` does not exist. Valid aliases: y.", "NotFoundError", "model", 404),
            ModelNotFound,
        ),
    ],
)
def test_what_is_the_matter_is_known(status, said, kind) -> None:
    assert type(parsed(status, said)) is kind


def test_busy_says_when_to_come_back() -> None:
    assert parsed(503, error(BUSY, code=503)).retry_after == 1.0


@pytest.mark.parametrize(
    ("param", "ours"),
    [
        ("body.messages", "messages"),
        ("body.messages.0.ChatCompletionUserMessageParam.role", "messages.0.role"),
        ("temperature", "temperature"),
        ("body.1", None),
        (None, None),
    ],
)
def test_a_mistake_names_the_field_as_its_author_knows_it(param, ours) -> None:
    found = parsed(400, error("wrong", "Bad Request", param))
    assert type(found) is InvalidRequest
    assert found.param == ours


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, error("something broke", "InternalServerError", code=500)),
        (404, error("Response with id 'x' not found.", "NotFoundError", code=404)),
        (500, b"Internal Server Error"),
        (500, b""),
        (400, b"[1]"),
        (400, b"[" * 100_000),
        (500, {"error": "odd"}),
        (400, {"error": 7}),
        (409, error("A profiling session is already active.", "Conflict", code=409)),
        # the framework's own server, in process
        (400, {"error": {"message": "x", "type": "y", "param": "p", "code": "some_code"}}),
    ],
)
def test_of_the_rest_the_status_says_enough(status, said) -> None:
    assert parsed(status, said) is None
