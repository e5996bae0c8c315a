"""A core over generators in threads: whatever happens in whatever order, every request ends once."""

from __future__ import annotations

import random

import pytest

from enginery.enginecore import (
    CoreState,
    EngineCore,
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    GeneratorBackend,
    SamplingParams,
)
from enginery.errors import EngineryError

PATIENCE = 30.0


def generate(request):
    """As many pieces as its prompt says; some fail at the end, some never end by themselves."""
    count, ending = request.prompt.split()
    for number in range(int(count)):
        yield f"{number} "
    if ending == "fails":
        raise RuntimeError("as asked")
    while ending == "endless":
        yield "more "


class Story:
    def __init__(self, seed) -> None:
        self.random = random.Random(seed)
        self.backend = GeneratorBackend(generate, slots=self.random.choice([1, 2, 4]))
        self.core = EngineCore(self.backend, log_stats=False)
        self.endings: dict[str, EngineCoreOutput] = {}
        self.texts: dict[str, str] = {}
        self.asked: dict[str, tuple[int, str]] = {}
        self.answers: list[list] = []

    def add(self) -> None:
        name = str(len(self.asked))
        self.asked[name] = (
            self.random.randrange(100),
            self.random.choice(["stops", "fails", "endless"]),
        )
        count, ending = self.asked[name]
        self.core.submit(
            EngineCoreRequest(
                name, prompt=f"{count} {ending}", sampling_params=SamplingParams(max_tokens=150)
            )
        )

    def step(self, timeout=0.0) -> None:
        for output in self.core.step(timeout).outputs:
            name = output.request_id
            assert name not in self.endings
            self.texts[name] = self.texts.get(name, "") + output.text
            if output.finished:
                self.endings[name] = output

    def abort(self) -> None:
        if self.asked:
            self.core.abort_requests([self.random.choice(sorted(self.asked))])

    def call(self) -> None:
        method, args = self.random.choice(
            [
                ("pause", {"mode": "abort"}),
                ("pause", {"mode": "keep"}),
                ("pause", {"mode": "wait"}),
                ("sleep", {"level": 0, "mode": "keep"}),
                ("sleep", {"level": 1}),
                ("resume", {}),
                ("wake_up", {}),
                ("get_stats", {}),
            ]
        )
        answer: list = []
        self.answers.append(answer)
        self.core.utility(method, args, lambda result, error: answer.append((result, error)))


@pytest.mark.parametrize("seed", range(30))
def test_every_request_ends_once_with_the_pieces_it_was_given(seed) -> None:
    story = Story(seed)
    acts = [story.add] * 3 + [story.step] * 6 + [story.abort, story.call, story.call]
    for _ in range(80):
        story.random.choice(acts)()
    drains = story.random.random() < 0.5
    if drains:
        story.core.drain()
    elif story.core.state is not CoreState.RUNNING:
        story.core.utility("wake_up", {}, lambda _result, _error: None)
    while story.core.has_work():
        story.step(PATIENCE)
    assert story.core.shutdown().outputs == []
    assert all(len(answer) == 1 for answer in story.answers)
    assert set(story.endings) == set(story.asked)
    for name, (count, ending) in story.asked.items():
        whole = "".join(f"{number} " for number in range(count)) + "more " * 150
        assert whole.startswith(story.texts[name])
        match story.endings[name].finish_reason:
            case FinishReason.STOP:
                assert (ending, story.texts[name].count(" ")) == ("stops", count)
            case FinishReason.ERROR:
                assert (ending, story.texts[name].count(" ")) == ("fails", count)
            case FinishReason.LENGTH:
                assert (ending, story.texts[name].count(" ")) == ("endless", 150)
    with pytest.raises(EngineryError):
        story.core.step()
    for piece in story.backend._threads:
        piece.join(PATIENCE)
