"""What runs in a mock is ended or stands still, as vLLM's modes have it; tests/vllm/oracle compares the shapes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from enginery_mock.halting import Halts, Work

ASK = {"prompt": "Hello", "ignore_eos": True, "max_tokens": 500}
FLAGS = ("--sleep-levels", "0,1", "--itl-ms", "60000", "--slots", "3", "--context-length", "1024")


@pytest.mark.parametrize("path", ["/pause", "/sleep?level=1", "/abort_requests"])
async def test_a_running_reply_ends_with_abort_streamed_or_not(
    start: Any, eventually: Any, path: str
) -> None:
    mock = start(*FLAGS).wait_until_ready()
    async with aiohttp.ClientSession(mock.url) as session:
        stream = await session.post("/v1/completions", json={**ASK, "stream": True})
        whole = asyncio.create_task(session.post("/v1/completions", json=ASK))
        await eventually(lambda: mock.report()["running"] == 2)
        await stream.content.readuntil(b"\n\n")
        assert mock.get(path, {})[0] == 200
        frames = (await stream.read()).split(b"\n\n")
        assert json.loads(frames[-3][6:])["choices"][0]["finish_reason"] == "abort"
        assert frames[-2] == b"data: [DONE]"
        reply = await (await whole).json()
        assert reply["choices"][0]["finish_reason"] == "abort"
        assert reply["usage"]["completion_tokens"] == 1


async def test_what_is_kept_stands_still_and_loses_no_token() -> None:
    halts, said = Halts(), []

    async def talk() -> None:
        with Work(halts, "a") as work:
            while len(said) < 3 and not await work.rest(0):
                said.append(len(said))

    halts.freeze()
    talking = asyncio.create_task(talk())
    for _ in range(10):
        await asyncio.sleep(0)
    assert said == []
    halts.thaw()
    await talking
    assert said == [0, 1, 2]
    assert halts.works == set()


async def test_only_those_that_are_named_are_ended_and_each_once() -> None:
    halts = Halts()
    with Work(halts, "a") as one, Work(halts, "b") as other:
        resting = asyncio.create_task(one.rest(3600))
        await asyncio.sleep(0)
        assert halts.end_all(frozenset({"a", "z"})) == 1
        assert await resting
        assert (one.over, other.over) == (True, False)
        assert halts.end_all() == 1
        assert await other.rest(3600)
