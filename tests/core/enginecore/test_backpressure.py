"""A core that reads nothing for a while: requests wait on our side, within bounds, and none is lost."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading

import pytest

from enginery.enginecore import AsyncMPClient, ClientConfig, SyncMPClient
from enginery.errors import EngineDeadError, EngineTimeout
from support.core_clients import request

DEADLINE = 30.0
PROMPT = 4000
"""Tokens of a prompt; some 8 KB, so that a socket holds a few dozen of them."""


def config(timeout: float) -> ClientConfig:
    options = {"text": False}  # so that any number is a token
    return ClientConfig(max_batch_size=8, max_tokens=8192, timeout_s=timeout, options=options)


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def test_a_sync_client_waits_for_a_core_that_takes_nothing_and_goes_on_when_it_does() -> None:
    with SyncMPClient(config(0.2)) as client:
        stopped(client.pid)
        accepted = 0

        def add_many() -> None:
            nonlocal accepted
            for number in range(1000):
                client.add_request(request(f"r{number}", 1, prompt=PROMPT))
                accepted += 1

        with pytest.raises(EngineTimeout, match="takes no requests"):
            add_many()
        assert 5 < accepted < 1000
        assert client.unfinished == accepted  # what was refused is not accepted
        assert client.abort_requests(["r0"]) == ["r0"]  # never waits
        os.kill(client.pid, signal.SIGCONT)
        ends = 0
        while client.unfinished:
            ends += sum(o.finish_reason is not None for o in client.get_output(DEADLINE).outputs)
        assert ends == accepted


async def test_an_async_client_waits_for_a_core_that_takes_nothing_and_goes_on_when_it_does() -> (
    None
):
    async with AsyncMPClient(config(0.2)) as client:
        stopped(client.pid)
        accepted = 0

        async def add_many() -> None:
            nonlocal accepted
            for number in range(5000):
                await client.add_request_async(request(f"r{number}", 1, prompt=PROMPT))
                accepted += 1

        with pytest.raises(EngineTimeout, match="takes no requests"):
            await add_many()
        assert 5 < accepted < 5000
        assert client.unfinished == accepted
        assert await client.abort_requests_async(["r0"]) == ["r0"]
        waiting = asyncio.ensure_future(client.call_utility_async("is_sleeping", {}, DEADLINE))
        await asyncio.sleep(0)
        os.kill(client.pid, signal.SIGCONT)
        ends = 0
        while client.unfinished:
            batch = await client.get_output_async(DEADLINE)
            ends += sum(o.finish_reason is not None for o in batch.outputs)
        assert ends == accepted
        assert await waiting is False


def test_the_thread_that_reads_sends_what_others_could_not() -> None:
    with SyncMPClient(config(DEADLINE)) as client:
        ends: list[str] = []
        count = 60

        def read() -> None:
            while len(ends) < count:
                outputs = client.get_output().outputs
                ends.extend(o.request_id for o in outputs if o.finish_reason is not None)

        reader = threading.Thread(target=read)
        reader.start()
        stopped(client.pid)
        adding = threading.Thread(
            target=lambda: [
                client.add_request(request(f"r{n}", 1, prompt=PROMPT)) for n in range(count)
            ]
        )
        adding.start()
        while client.unfinished < 5 or not client._out:
            assert adding.is_alive()
        os.kill(client.pid, signal.SIGCONT)
        for thread in (adding, reader):
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert len(set(ends)) == count


def test_frames_larger_than_the_sockets_buffer_arrive() -> None:
    options = {"max_model_len": 400_000, "num_blocks": 30_000, "text": False}
    with SyncMPClient(
        ClientConfig(max_tokens=500_000, timeout_s=DEADLINE, options=options)
    ) as client:
        client.add_request(request("a", 2, prompt=256))
        client.add_request(request("b", 2, prompt=300_000))
        ends = {}
        while client.unfinished:
            for output in client.get_output().outputs:
                if output.finish_reason is not None:
                    ends[output.request_id] = output.num_prompt_tokens
        assert ends == {"a": 256, "b": 300_000}


def send_and_see(pid: int, number: signal.Signals, change: int) -> None:
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, change | os.WNOWAIT)


@pytest.mark.both_loops
async def test_a_core_that_dies_with_words_unread_on_both_sides_is_seen_to_be_dead() -> None:
    """The socket is reset then, of which an event loop may tell only once."""
    async with AsyncMPClient(config(DEADLINE)) as client:
        await client.add_request_async(request("a", PROMPT))
        await client.get_output_async()
        # from here to the death nothing lets the loop run, so what the core says stays in the socket
        assert select.select([client._link._socket], [], [], DEADLINE)[0]
        send_and_see(client.pid, signal.SIGSTOP, os.WSTOPPED)
        await client.add_request_async(request("b", PROMPT))
        send_and_see(client.pid, signal.SIGKILL, os.WEXITED)
        while client.unfinished:
            await client.get_output_async(DEADLINE)
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            await client.get_output_async(DEADLINE)
