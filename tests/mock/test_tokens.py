from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery_mock.replies import compose, make_reply
from enginery_mock.tokens import (
    CHAT_OVERHEAD,
    MESSAGE_OVERHEAD,
    PART_TOKENS,
    chat_tokens,
    count,
    pieces,
    prompt_tokens,
    request_tokens,
    token_id,
)

patient = settings(deadline=None)  # the machine that runs this may be busy

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@patient
@given(TEXT)
def test_the_tokens_of_a_text_put_together_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert count(text) == len(pieces(text))


def test_the_documented_rules_hold() -> None:
    assert pieces("Hello, world") == ["Hello", ",", " world"]
    assert pieces("considerations") == ["consider", "ations"]
    assert pieces("a  \n b?") == ["a", "  \n ", "b", "?"]


def test_a_token_has_the_same_id_everywhere() -> None:
    assert token_id(" world") == 1245397707
    assert 0 <= token_id("") < 2**31


def test_a_chat_costs_its_contents_and_a_fixed_sum_for_each_message() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
        {"role": "assistant", "content": None},
    ]
    assert chat_tokens(messages) == CHAT_OVERHEAD + 3 * MESSAGE_OVERHEAD + 3 + 1 + PART_TOKENS


def test_a_prompt_costs_its_tokens_or_its_length() -> None:
    assert prompt_tokens("Hello, world") == prompt_tokens(["Hello, world"]) == 3
    assert prompt_tokens([5, 6, 7]) == prompt_tokens([[5, 6, 7]]) == 3
    assert prompt_tokens("") == 0


def test_the_route_decides_what_is_counted() -> None:
    both = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "one two three four"}
    assert request_tokens("/v1/chat/completions", both) == 8
    assert request_tokens("/v1/completions", both) == 4


@patient
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["content", "text"]), x),
        max_leaves=6,
    )
)
def test_counting_never_fails_whatever_the_body(value: object) -> None:
    assert request_tokens("/v1/chat/completions", {"messages": value}) >= 0
    assert request_tokens("/v1/completions", {"prompt": value}) >= 0


def test_the_same_seed_and_prompt_say_the_same_on_every_machine() -> None:
    reply = make_reply(0, "Hello", limit=12)
    assert reply == make_reply(0, "Hello", limit=12)
    assert reply.id == "658f8f2d2538a317895f1eac"
    assert reply.text == "Here, the patient map repairs the letter under the old window"


def test_another_seed_prompt_or_request_seed_says_something_else() -> None:
    ids = {
        make_reply(0, "Hello", limit=9).id,
        make_reply(1, "Hello", limit=9).id,
        make_reply(0, "Hullo", limit=9).id,
        make_reply(0, "Hello", limit=9, request_seed=1).id,
    }
    assert len(ids) == 4


@patient
@given(st.integers(0, 2**63), TEXT, st.integers(1, 200))
def test_a_reply_keeps_its_limit_and_is_the_start_of_a_longer_one(
    seed: int, prompt: str, limit: int
) -> None:
    short = make_reply(seed, prompt, limit=limit)
    whole = make_reply(seed, prompt, limit=1000)
    assert len(short.pieces) == min(limit, len(whole.pieces))
    assert whole.text.startswith(short.text)
    assert short.finish_reason == ("length" if limit < len(whole.pieces) else "stop")
    assert whole.finish_reason == "stop"


@patient
@given(st.integers(0, 2**63), st.integers(1, 300))
def test_the_tokens_of_a_reply_are_those_that_the_tokenizer_finds(seed: int, limit: int) -> None:
    reply = make_reply(seed, "Hi", limit=limit, ignore_eos=True)
    assert len(reply.pieces) == limit
    assert pieces(reply.text) == list(reply.pieces)
    assert reply.finish_reason == "length"


@patient
@given(st.data(), st.integers(0, 50))
def test_a_reply_ends_before_its_first_stop_string(data: st.DataObject, seed: int) -> None:
    whole = make_reply(seed, "Hi", limit=1000).text
    start = data.draw(st.integers(0, len(whole) - 1))
    word = whole[start : start + data.draw(st.integers(1, 12))]
    reply = make_reply(seed, "Hi", limit=1000, stop=["not there", word])
    assert reply.text == whole[: whole.find(word)]
    assert reply.finish_reason == "stop"
    assert "" not in reply.pieces


def test_every_word_of_the_mock_is_one_token() -> None:
    for sentence in islice(compose(random.Random(0)), 500):
        assert max(len(piece.strip()) for piece in pieces(sentence)) <= 8
        assert len(pieces(sentence)) == sentence.count(" ") + 3  # words, a comma, a full stop


@pytest.mark.parametrize("limit", [1, 2])
def test_even_the_shortest_reply_says_something(limit: int) -> None:
    assert make_reply(0, "", limit=limit).text
