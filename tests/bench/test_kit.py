"""The kit of the benchmarks: what its programs say of each other is true."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request

import pytest
from benchmarks import gateway, programs, streams
from benchmarks.processes import cpu_seconds, pss
from benchmarks.programs import NotRun, load
from benchmarks.targets import Target, engine, free_port, naive, running, targets

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

STREAM = {"messages": [], "stream": True, "max_tokens": 3}


@pytest.fixture(scope="module")
def fake():
    """A fake engine's address."""
    with engine() as (port, _):
        yield f"127.0.0.1:{port}"


def post(address: str, body: object) -> str:
    request = urllib.request.Request(f"http://{address}/v1/x", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as reply:
        text: str = reply.read().decode()
        return text


def test_the_engine_sends_as_many_chunks_as_it_was_asked_for(fake) -> None:
    asked = {**STREAM, "stream_options": {"include_usage": True}}
    *chunks, done = post(fake, asked).removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    read = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    assert [c["choices"][0]["finish_reason"] for c in read[:-1]] == [None, None, None, "stop"]
    assert read[-1]["usage"]["completion_tokens"] == 3
    assert "usage" not in post(fake, STREAM)


def test_the_engine_reads_a_large_body_that_comes_in_pieces(fake) -> None:
    reply = json.loads(post(fake, {"messages": ["x" * 3_000_000]}))
    assert reply["object"] == "chat.completion"


def asked(address: str, *words: str) -> dict[str, float]:
    """What the client has seen; a busy machine may need longer for the first reply."""
    for seconds in ("0.3", "3", "15"):
        seen = load(address, *words, "-d", seconds)
        if seen["requests"]:
            return seen
    raise AssertionError(f"no reply: {seen}")


@pytest.mark.parametrize("words", [("-m", "json"), ("-m", "stream", "-N", "4", "-c", "3")])
def test_the_client_counts_whole_replies(fake, words) -> None:
    seen = asked(fake, *words)
    assert seen["errors"] == seen["short"] == 0
    assert ("stream" in words) is (seen["chunks"] >= 4 * seen["requests"])


def test_the_client_says_when_nobody_answers() -> None:
    with pytest.raises(RuntimeError, match="cannot connect"):
        load(f"127.0.0.1:{free_port()}", "-m", "json", "-d", "0.1")


def test_the_naive_proxy_passes_replies_and_streams_and_its_costs_are_seen(fake) -> None:
    with running(naive(int(fake.rpartition(":")[2]))) as proxy:
        address = f"127.0.0.1:{proxy.args[-2]}"
        before = cpu_seconds(proxy.pid)
        for words in (("-m", "json"), ("-m", "stream", "-N", "4")):
            seen = asked(address, *words)
            assert seen["errors"] == seen["short"] == 0
        assert cpu_seconds(proxy.pid) > before
        assert pss(proxy.pid) > 2**20


def test_a_target_that_ends_at_once_is_not_run() -> None:
    target = Target("gone", [sys.executable, "-c", ""], free_port())
    with pytest.raises(NotRun, match="did not come up"), running(target):
        pass


async def test_without_a_compiler_the_benchmarks_say_so(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(programs, "CACHE", tmp_path)
    for benchmark in (gateway, streams):
        assert await benchmark.main()
        assert "NOT RUN: " in capsys.readouterr().out


def test_a_peer_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENGINERY_BENCH_PEERS", "")
    _, missing = targets(1)
    assert "vllm-router: not installed" in missing
