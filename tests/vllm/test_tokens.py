"""`enginery_vllm.tokens`; that counts are those of ``usage`` is in ``real``."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery import Endpoint, EngineReply, EngineRequest, RunningEngine, TokenEstimate, Variant
from enginery_vllm.requests import CHAT, COMPLETIONS, COUNT, EMBEDDINGS, MESSAGES, RESPONSES, SCORE
from enginery_vllm.tokens import count_tokens, estimate_tokens, prompts_of

NO_BOUND = TokenEstimate(0, None)
LENGTHENED = ["\ufdfa", "½ cup", "\u0958", "\U0001d160"]  # by NFKC, NFKC, NFC and NFC


def estimate(path, body):
    return estimate_tokens(EngineRequest(path, body))


def chat(text):
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    "text",
    ["", "hello", "<|im_end|>", "漢字かな", "한국어", "café", "e\u0301", "🧑‍🚀", "ﬁ", "\udcff"],
)
def test_the_frameworks_bound_is_left_to_hold(text) -> None:
    assert estimate(CHAT, chat(text)) is None
    assert estimate(COMPLETIONS, {"prompt": text}) is None


@pytest.mark.parametrize("text", LENGTHENED)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat),
        (CHAT, lambda text: chat([{"type": "text", "text": text}])),
        (CHAT, lambda text: {**chat("x"), "tools": [{"function": {"name": {text: 1}}}]}),
        (COMPLETIONS, lambda text: {"prompt": ["a", text]}),
        (EMBEDDINGS, lambda text: {"input": text}),
        (MESSAGES, lambda text: {"system": text, **chat("x")}),
        (RESPONSES, lambda text: {"input": text}),
    ],
)
def test_text_that_a_normalising_tokenizer_lengthens_has_no_bound(path, body, text) -> None:
    assert estimate(path, body(text)) == NO_BOUND


@given(st.text(max_size=20))
def test_what_has_a_bound_has_no_longer_form(text) -> None:
    if estimate(COMPLETIONS, {"prompt": text}) is None:
        size = len(text.encode())
        assert all(len(unicodedata.normalize(f, text).encode()) <= size for f in ("NFC", "NFKC"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**chat("x"), "chat_template": "{{ 'x' * 1000 }}"}),
        (COMPLETIONS, {"prompt_embeds": "AAAA"}),
        (RESPONSES, {"input": "x", "previous_response_id": "r"}),
        (SCORE, {"text_1": "a", "text_2": "b"}),
        ("/pooling", {"input": "a"}),
    ],
)
def test_what_cannot_be_seen_has_no_bound(path, body) -> None:
    assert estimate(path, body) == NO_BOUND


def test_text_that_never_reaches_the_prompt_does_not_count() -> None:
    assert estimate(CHAT, {**chat("x"), "model": "½", "stop": ["½"]}) is None


@pytest.mark.parametrize(
    ("value", "prompts"),
    [
        ("a", ["a"]),
        ([1, 2], [[1, 2]]),
        (["a", "b"], ["a", "b"]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([], []),
        (None, [None]),
    ],
)
def test_prompts_are_split_as_vllm_splits_them(value, prompts) -> None:
    assert prompts_of(value) == prompts


class Counter:
    """Answers with the length of what it was asked; remembers the questions."""

    def __init__(self, status=200, **options) -> None:
        self.asked: list[tuple[str, dict]] = []
        self.status = status
        variant = Variant(
            "alias", engine_type="vllm", options=options, upstream_model="its-own-name"
        )
        self.engine = RunningEngine(variant, Endpoint("h", 1), 1, self.transport)

    async def transport(self, method, path, body, timeout) -> EngineReply:
        self.asked.append((path, body))
        number = len(body.get("prompt", "")) or 100
        said = {"input_tokens" if path == COUNT else "count": number}
        return EngineReply(self.status, {}, json.dumps(said).encode())

    async def count(self, path, body):
        return await count_tokens(EngineRequest(path, body), self.engine)


async def test_a_chat_is_counted_with_all_that_its_template_sees() -> None:
    counter = Counter()
    body = {
        **chat("x"),
        "model": "alias",
        "tools": [{}],
        "continue_final_message": True,
        "chat_template_kwargs": {"documents": "mine"},
        "documents": [{"text": "y"}],
        "reasoning_effort": "none",
        "temperature": 1,
    }
    assert await counter.count(CHAT, body) == 100
    ((path, asked),) = counter.asked
    assert path == "/tokenize"
    assert asked == {
        **chat("x"),
        "model": "its-own-name",
        "tools": [{}],
        "continue_final_message": True,
        "chat_template_kwargs": {
            "documents": "mine",
            "reasoning_effort": "none",
            "enable_thinking": False,
        },
    }


async def test_of_several_prompts_the_longest_counts() -> None:
    counter = Counter()
    assert await counter.count(COMPLETIONS, {"prompt": ["abc", "abcde", [1, 2, 3, 4]]}) == 5
    assert await counter.count(COMPLETIONS, {"prompt": list(range(9))}) == 9
    assert await counter.count(EMBEDDINGS, {"input": "ab", "add_special_tokens": False}) == 2
    assert counter.asked[-1][1]["add_special_tokens"] is False


async def test_messages_are_counted_by_their_own_route() -> None:
    counter = Counter()
    body = {**chat("x"), "system": "s", "max_tokens": 5, "stream": True, "model": "alias"}
    assert await counter.count(MESSAGES, body) == 100
    assert counter.asked == [(COUNT, {**chat("x"), "system": "s", "model": "its-own-name"})]


async def test_a_prompt_that_is_cut_counts_what_is_left() -> None:
    counter = Counter()
    assert await counter.count(CHAT, {**chat("x"), "truncate_prompt_tokens": 7}) == 7
    assert await counter.count(CHAT, {**chat("x"), "truncate_prompt_tokens": -1}) == 100


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RESPONSES, {"input": "x"}),
        (COMPLETIONS, {"prompt": {"odd": 1}}),
        (COMPLETIONS, {"prompt": ["a", 1.5]}),
        ("/pooling", {"input": "x"}),
    ],
)
async def test_what_it_cannot_count_it_does_not_guess(path, body) -> None:
    assert await Counter().count(path, body) is None


async def test_a_refusal_is_no_number() -> None:
    assert await Counter(status=400).count(CHAT, chat("x")) is None
    assert await Counter(status=404).count(MESSAGES, chat("x")) is None


async def test_in_process_the_frameworks_server_is_asked() -> None:
    counter = Counter(in_process=True)
    assert await counter.count(CHAT, {**chat("x"), "tools": [{}]}) == 100
    assert await counter.count(COMPLETIONS, {"prompt": "abc"}) == 3
    assert await counter.count(COMPLETIONS, {"prompt": ["a", "b"]}) is None
    assert await counter.count(COMPLETIONS, {"prompt": []}) is None
