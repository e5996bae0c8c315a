"""What a person sees while an engine loads."""

from __future__ import annotations

import io

import pytest

from enginery.cli.progress import Progress
from enginery.engine.events import EngineEvent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def event(type_: str, **data) -> EngineEvent:
    return EngineEvent(1, 0.0, type_, "m", "m/default", data)


def test_a_terminal_gets_one_live_line_and_then_the_time(clock):
    screen = Terminal()
    progress = Progress(screen, clock)
    progress.show(event("instance.state", state="starting", reason=""))
    clock.now = 1.5
    progress.show(event("load.progress", progress=0.4, detail=""))
    clock.now = 2.0
    progress.show(event("instance.state", state="ready", reason=""))
    lines = screen.getvalue().split("\r")
    assert lines[-2].strip() == "loading m 40 % … 1.5 s"
    assert lines[-1] == "m is ready after 2.00 s".ljust(len("loading m 40 % … 1.5 s")) + "\n"
    assert "\n" not in "".join(lines[:-1])


def test_a_pipe_gets_a_line_only_every_few_seconds(clock):
    pipe = io.StringIO()
    progress = Progress(pipe, clock)
    progress.show(event("instance.state", state="starting", reason=""))
    for clock.now in (1.0, 2.0, 5.0, 6.0, 10.5):
        progress.show(event("load.progress", progress=None, detail=""))
    clock.now = 11.0
    progress.show(event("instance.state", state="ready", reason=""))
    assert pipe.getvalue().splitlines() == [
        "loading m … 5.0 s",
        "loading m … 10.5 s",
        "m is ready after 11.00 s",
    ]


def test_time_goes_on_while_an_engine_says_nothing(clock):
    screen = Terminal()
    progress = Progress(screen, clock)
    progress.show(event("instance.state", state="starting", reason=""))
    clock.now = 3.0
    progress.tick()
    assert screen.getvalue().endswith("\rloading m … 3.0 s")
    progress.show(event("instance.state", state="failed", reason="exit status 1"))
    before = screen.getvalue()
    progress.tick()
    assert screen.getvalue() == before


def test_a_swap_says_what_is_stopped_and_why(clock):
    pipe = io.StringIO()
    Progress(pipe, clock).show(
        event("instance.state", state="stopping", reason="swap to b/default")
    )
    assert pipe.getvalue() == "stopping m (swap to b/default)\n"
