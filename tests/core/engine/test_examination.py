"""One token as proof of life: which request is made, and what its answer means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from enginery import (
    BadEngineReply,
    Command,
    Endpoint,
    EngineHooks,
    EngineReply,
    EngineTimeout,
    EngineUnreachable,
    RunningEngine,
    Variant,
    hookimpl,
)
from enginery.engine.clock import LoopClock
from enginery.engine.examination import examine

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Plugin:
    def __init__(self, *endpoints: str) -> None:
        self.endpoints = endpoints

    @hookimpl
    def build_command(self, variant, endpoint):
        return Command(["x"])

    @hookimpl
    def get_supported_endpoints(self, variant):
        return self.endpoints

    @hookimpl
    def transform_request(self, request, variant):
        return {**request.body, "seen": True}


class Asked:
    """Runs an examination of an engine that gives these answers in turn."""

    def __init__(self, *answers: Any, endpoints: tuple[str, ...] = (CHAT, COMPLETIONS)) -> None:
        self.answers = list(answers)
        self.hooks = EngineHooks(Plugin(*endpoints), "fake")
        self.posts: list[tuple[str, Any]] = []

    async def transport(
        self, method: str, path: str, body: Any, timeout: float | None
    ) -> EngineReply:
        self.posts.append((path, body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await asyncio.Event().wait()
        return EngineReply(answer, {}, b"{}")

    async def examine(self, patience: float = 30.0) -> None:
        variant = Variant(model="m", engine_type="fake")
        engine = RunningEngine(variant, Endpoint("127.0.0.1", 1), None, self.transport)
        await examine(self.hooks, engine, patience, LoopClock())


async def test_one_token_of_a_chat_is_asked_for_in_the_plugins_words():
    asked = Asked(200)
    await asked.examine()
    ((path, body),) = asked.posts
    assert path == CHAT
    assert (body["max_tokens"], body["model"], body["seen"]) == (1, "m", True)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
async def test_an_engine_that_does_not_generate_is_asked_for_what_it_does(path):
    asked = Asked(200, endpoints=("/v1/models", path))
    await asked.examine()
    assert [post for post, _ in asked.posts] == [path]


async def test_a_refusal_is_no_proof_and_the_next_route_is_tried():
    asked = Asked(400, 200)
    await asked.examine()
    assert [path for path, _ in asked.posts] == [CHAT, COMPLETIONS]


async def test_an_engine_that_refuses_every_route_does_answer():
    await Asked(400, 404).examine()


async def test_an_engine_without_room_is_asked_again(monkeypatch):
    monkeypatch.setattr("enginery.engine.examination.AGAIN", 0.0)
    asked = Asked(503, 429, 200)
    await asked.examine()
    assert len(asked.posts) == 3


FAILURES: dict[str, tuple[Any, type[Exception]]] = {
    "an error of its own": (500, BadEngineReply),
    "silence": (None, EngineTimeout),
    "the transport's deadline": (EngineTimeout("late"), EngineTimeout),
    "no connection": (EngineUnreachable("gone"), EngineUnreachable),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_an_engine_that_gives_no_token_fails(case):
    answer, error = FAILURES[case]
    patience = 0.01 if answer is None else 30.0
    with pytest.raises(error):
        await Asked(answer).examine(patience)
