"""`enginery_llamacpp.errors`, on the bodies that llama.cpp really sends."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import (
    AuthenticationFailed,
    ContextLengthExceeded,
    EngineBusy,
    EngineLoading,
    InvalidRequest,
    UnsupportedOperation,
)
from enginery_llamacpp.errors import parse_error


def body(kind: str, message: str, **more) -> bytes:
    return json.dumps({"error": {"code": 0, "message": message, "type": kind, **more}}).encode()


def test_overflow_has_both_numbers() -> None:
    reply = body("exceed_context_size_error", "request (4013 …)", n_prompt_tokens=4013, n_ctx=512)
    error = parse_error(400, reply)
    assert isinstance(error, ContextLengthExceeded)
    assert (error.prompt_tokens, error.context_length) == (4013, 512)
    assert "4013" in error.message
    assert "512" in error.message


def test_an_embedding_that_is_too_long_is_an_overflow_and_no_500() -> None:
    message = (
        "input (902 tokens) is too large to process. increase the physical batch size "
        "(current batch size: 512)"
    )
    error = parse_error(500, body("server_error", message))
    assert isinstance(error, ContextLengthExceeded)
    assert (error.prompt_tokens, error.context_length) == (902, 512)


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected", "param"),
    [
        (503, "unavailable_error", "Loading model", EngineLoading, None),
        (503, "unavailable_error", "no slot available", EngineBusy, None),
        (500, "server_error", "Context size has been exceeded.", EngineBusy, None),
        (501, "not_supported_error", "no embeddings", UnsupportedOperation, None),
        (401, "authentication_error", "Invalid API Key", AuthenticationFailed, None),
        (500, "server_error", "Failed to parse messages: …", InvalidRequest, "messages"),
        (500, "server_error", "Failed to parse tools: …", InvalidRequest, "tools"),
        (500, "server_error", "image input is not supported", InvalidRequest, "messages"),
        (400, "invalid_request_error", "Field 'seed': …", InvalidRequest, "seed"),
        (400, "invalid_request_error", "'messages' is required", InvalidRequest, None),
    ],
)
def test_each_known_sentence_has_its_class(status, kind, message, expected, param) -> None:
    error = parse_error(status, body(kind, message))
    assert type(error) is expected
    assert error is not None
    assert error.param == param


@pytest.mark.parametrize(
    "reply", [b"", b"null", b"[]", b'{"error": "x"}', b"\xff", b"[" * 100_000, b'{"error": {}}']
)
def test_what_is_no_error_of_llama_cpp_means_nothing_more(reply) -> None:
    assert parse_error(500, reply) is None


@given(st.integers(400, 599), st.binary() | st.text().map(lambda x: body(x, x)))
def test_no_reply_makes_it_raise(status, reply) -> None:
    parse_error(status, reply)
