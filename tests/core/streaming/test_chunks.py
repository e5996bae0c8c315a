"""OpenAI's JSON, both ways."""

from __future__ import annotations

import pytest

from enginery.errors import BadEngineReply, EngineError, InvalidRequest
from enginery.streaming.chunks import Piece, body_of, decoded, piece_of, refusal_of
from enginery.streaming.config import StreamRequest, request_for


def test_a_chat_and_a_completion_are_asked_for_in_their_own_words():
    sampling = {"stop": ("a",), "logprobs": 2, "skip_special_tokens": True, "mirostat": 2}
    chat = body_of(StreamRequest(messages=[{"role": "user"}], sampling=sampling), "m")
    assert chat == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user"}],
        "stop": ["a"],
        "logprobs": True,
        "top_logprobs": 2,
        "mirostat": 2,
    }
    text = body_of(StreamRequest(prompt="p", model="other", sampling=sampling), "m")
    assert (text["prompt"], text["model"], text["logprobs"]) == ("p", "other", 2)


@pytest.mark.parametrize(
    ("chunk", "piece"),
    [
        ({"choices": [{"delta": {"content": "a"}}]}, Piece("a")),
        ({"choices": [{"delta": {"content": None}, "finish_reason": "stop"}]}, Piece("", "stop")),
        (
            {"choices": [{"text": "a", "logprobs": {"token_logprobs": [-1, None]}}]},
            Piece("a", None, (-1.0,)),
        ),
        (
            {"choices": [{"message": {"content": "all"}, "finish_reason": "length"}]},
            Piece("all", "length"),
        ),
        (
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
            Piece(prompt_tokens=3, completion_tokens=4),
        ),
        (
            {
                "choices": [
                    {"delta": {"content": "a"}, "logprobs": {"content": [{"logprob": -0.5}]}}
                ]
            },
            Piece("a", None, (-0.5,)),
        ),
    ],
)
def test_every_shape_of_a_chunk_is_a_piece(chunk, piece):
    assert piece_of(chunk) == piece


@pytest.mark.parametrize("chunk", [{}, {"choices": 7}, {"choices": [7]}])
def test_what_is_no_chunk_is_a_bad_reply(chunk):
    with pytest.raises(BadEngineReply):
        piece_of(chunk)


@pytest.mark.parametrize("data", ["", "{", "[]", "7"])
def test_what_is_no_object_is_a_bad_reply(data):
    with pytest.raises(BadEngineReply):
        decoded(data)


@pytest.mark.parametrize("error", ['{"message": "no slot"}', '"no slot"'])
def test_an_error_in_the_middle_is_raised(error):
    with pytest.raises(EngineError, match="no slot"):
        decoded(f'{{"error": {error}}}')


def test_a_refusal_has_the_engines_own_words():
    assert "m answered 400: too long" in str(
        refusal_of("m", 400, b'{"error": {"message": "too long"}}')
    )
    assert "m answered 502: oops" in str(refusal_of("m", 502, b"oops"))


def test_a_system_prompt_makes_a_chat_and_none_leaves_a_parameter_to_the_engine():
    request = request_for("hi", "Be brief.", "m", {"top_p": None, "seed": 1, "n": 1})
    assert [each["role"] for each in request.messages] == ["system", "user"]
    assert request.sampling == {"seed": 1}
    assert request_for("hi", None, "m", {}).prompt == "hi"
    with pytest.raises(InvalidRequest, match="list of messages"):
        request_for(["hi"], None, "m", {})
