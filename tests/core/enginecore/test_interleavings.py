"""Random programs against real cores: whatever happens, every accepted request has exactly one last output."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress

import pytest

from enginery.enginecore import SyncMPClient
from enginery.errors import EngineBusy, EngineClosedError, EngineDeadError, InvalidRequest
from support.core_clients import DRIVERS, Driver, mock_config, request


class Story:
    """What one random program did, and what it read."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.accepted: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def read(self, batch) -> None:
        assert batch.outputs
        self.ends.update(o.request_id for o in batch.outputs if o.finish_reason is not None)

    async def play(self, driver: Driver, moves: int) -> None:
        rng = self.rng
        for _ in range(moves):
            match rng.choice(("add", "add", "add", "abort", "read", "read", "call")):
                case "add":
                    name = f"r{rng.randrange(12)}"
                    try:
                        await driver.do("add_request", request(name, rng.randrange(1, 60)))
                    except InvalidRequest:
                        continue
                    self.accepted[name] += 1
                case "abort":
                    names = [f"r{rng.randrange(12)}" for _ in range(rng.randrange(4))]
                    await driver.do("abort_requests", names)
                case "read":
                    try:
                        self.read(await driver.do("get_output", 0.01))
                    except TimeoutError:
                        continue
                case _:
                    call = rng.choice(
                        [
                            ("sleep", rng.randrange(3), rng.choice(["abort", "keep"])),
                            ("pause", "keep"),
                            ("wake_up",),
                            ("resume",),
                            ("reset_prefix_cache", True),
                            ("is_sleeping",),
                            ("get_stats",),
                        ]
                    )
                    with suppress(EngineBusy):  # resume, while asleep
                        await driver.do(*call)

    async def end(self, driver: Driver) -> None:
        ways = ["abort", "drain", "wake", *(["kill"] if hasattr(driver.client, "pid") else [])]
        way = self.rng.choice(ways)
        match way:
            case "kill":
                os.kill(driver.client.pid, signal.SIGKILL)
            case "wake":
                await driver.do("wake_up")
                await driver.do("resume")
            case _:
                await driver.do("shutdown", None, way)
        while driver.client.unfinished:
            self.read(await driver.do("get_output"))
        if way != "wake":
            with pytest.raises((EngineDeadError, EngineClosedError)):
                await driver.do("get_output")
        assert self.ends == self.accepted


@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_request_ends_once_in_a_random_program(kind, seed) -> None:
    story = Story(seed)
    async with Driver(kind, mock_config(max_model_len=128, num_blocks=24)) as driver:
        await story.play(driver, 60)
        await story.end(driver)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", DRIVERS)
@pytest.mark.parametrize("seed", range(100, 125))
async def test_every_request_ends_once_in_many_long_random_programs(kind, seed) -> None:
    story = Story(seed)
    async with Driver(kind, mock_config(max_model_len=128, num_blocks=24)) as driver:
        await story.play(driver, 400)
        await story.end(driver)


@pytest.mark.parametrize("ending", ["shutdown", "kill"])
def test_threads_that_add_abort_call_and_read_at_once_lose_nothing(ending) -> None:
    accepted: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    over = (EngineDeadError, EngineClosedError)
    with SyncMPClient(mock_config()) as client:
        halfway = threading.Barrier(4)

        def add(who: int) -> None:
            rng, number = random.Random(who), 0
            try:
                while True:
                    name = f"{who}-{number}"
                    number += 1
                    client.add_request(request(name, rng.randrange(1, 20)))
                    accepted[name] += 1  # one writer for each name
                    if number % 3 == 0:
                        client.abort_requests([name])
                    if number % 5 == 0:
                        client.is_sleeping()
                    if number == 100:
                        halfway.wait()
                    while client.unfinished > 200:
                        client.get_stats()
            except over:
                pass

        def read() -> None:
            try:
                while True:
                    for output in client.get_output().outputs:
                        if output.finish_reason is not None:
                            ends[output.request_id] += 1
            except over:
                pass

        threads = [threading.Thread(target=add, args=(who,)) for who in range(3)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        halfway.wait()
        if ending == "kill":
            os.kill(client.pid, signal.SIGKILL)
        else:
            client.shutdown()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert ends == accepted
    assert len(accepted) >= 300
