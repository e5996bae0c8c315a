"""`StreamingVllmEngine` with real vLLM in a child: real tokens, in all three ways, as they are made."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from enginery import ConfigError, ContextLengthExceeded, EngineStartFailed
from enginery_vllm import StreamingVllmConfig, StreamingVllmEngine

PAGE = Path(__file__).parents[3] / "docs" / "streaming.md"
PATIENCE = 60.0
CHAT = [{"role": "user", "content": "What is a list?"}]
GREEDY = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
OPTIONS = {"dtype": "bfloat16", "enforce_eager": True, "kv_cache_gib": 0.25}


@pytest.fixture(scope="module")
def config(tiny_llama) -> Iterator[StreamingVllmConfig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield StreamingVllmConfig(str(tiny_llama), 256, 8, OPTIONS)


@pytest.fixture(scope="module")
def engine(config) -> Iterator[StreamingVllmEngine]:
    made = StreamingVllmEngine.get_instance(config)
    assert made.is_available
    assert not made.is_initialized
    yield made
    made.shutdown()
    assert not made.is_available


def core(engine: StreamingVllmEngine):
    """The client behind it."""
    return engine._lazy._client


def running(engine: StreamingVllmEngine) -> float:
    stats = core(engine).get_stats()
    return stats["running"] + stats["waiting"]


def wait_until_idle(engine: StreamingVllmEngine) -> None:
    deadline = time.monotonic() + PATIENCE
    while running(engine):
        assert time.monotonic() < deadline


def test_an_iterator_gets_each_token_with_its_id(engine) -> None:
    stream = engine.generate_stream(CHAT, **GREEDY)
    tokens = list(stream)
    ids = [token for each in tokens for token in each.token_ids]
    assert len(ids) == stream.total_tokens == 12
    assert stream.finish_reason == tokens[-1].finish_reason == "length"
    text = "".join(token.text for token in tokens)
    assert text
    assert core(engine).call_utility("detokenize", {"tokens": ids}) == text
    assert engine.is_initialized


def test_the_three_ways_say_the_same(engine) -> None:
    whole = engine.generate_stream("A list is", **GREEDY).collect()
    calls: list[tuple] = []
    said = engine.generate_with_callback("A list is", lambda *call: calls.append(call), **GREEDY)
    assert said == whole == "".join(call[0] for call in calls)
    assert all(isinstance(call[1], int) for call in calls)
    assert [call[2] for call in calls] == [False] * (len(calls) - 1) + [True]
    assert calls[-1][3] == "length"
    batches = list(engine.generate_buffered("A list is", 5, **GREEDY))
    assert "".join(batches) == whole


async def test_a_loop_gets_the_same(engine) -> None:
    whole = await engine.generate_stream("A list is", **GREEDY).acollect()
    seen: list[str] = []

    async def note(token, token_id, is_finished, finish_reason=None) -> None:
        seen.append(token)

    assert await engine.generate_with_callback_async("A list is", note, **GREEDY) == whole
    assert "".join(seen) == whole
    parts = [text async for text in engine.generate_buffered("A list is", 4, **GREEDY)]
    assert "".join(parts) == whole


def test_a_system_prompt_makes_it_a_chat(engine) -> None:
    chat = [{"role": "system", "content": "Be short."}, *CHAT]
    alone = engine.generate_stream(CHAT[0]["content"], system_prompt="Be short.", **GREEDY)
    assert alone.collect() == engine.generate_stream(chat, **GREEDY).collect()


def test_log_probabilities_come_with_their_tokens(engine) -> None:
    tokens = list(engine.generate_stream(CHAT, logprobs=0, **GREEDY))
    found = [value for token in tokens for value in token.logprobs]
    assert len(found) == 12
    assert all(value <= 0 for value in found)


def test_tokens_come_while_later_ones_are_not_made_yet(engine) -> None:
    """A callback that holds the reader up sees that the engine is still at work."""
    seen: list[float] = []

    def look(*_: object) -> None:
        if not seen:
            seen.append(running(engine))

    engine.generate_with_callback("A list is", look, max_tokens=200, ignore_eos=True)
    assert seen == [1]


def test_many_streams_at_once_are_each_whole(engine) -> None:
    alone = engine.generate_stream("Number 3 is", **GREEDY).collect()
    streams = [engine.generate_stream(f"Number {n} is", **GREEDY) for n in range(12)]
    found: dict[int, int] = {}

    def read(number: int) -> None:
        streams[number].collect()
        found[number] = streams[number].total_tokens

    readers = [threading.Thread(target=read, args=(number,)) for number in range(12)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE)
    assert found == dict.fromkeys(range(12), 12)
    assert alone


def test_a_stream_that_is_left_is_aborted_in_vllm(engine) -> None:
    for token in engine.generate_stream("A list is", max_tokens=None, ignore_eos=True):
        assert token.token_id is not None
        break
    gc.collect()
    wait_until_idle(engine)
    closed = engine.generate_stream("A list is", max_tokens=None, ignore_eos=True)
    next(closed)
    closed.close()
    wait_until_idle(engine)
    assert closed.finish_reason == "abort"
    assert core(engine).get_stats()["kv_cache_usage"] == 0.0


def test_what_vllm_refuses_comes_out_of_the_stream(engine) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"has \d+ tokens.*256 fit"):
        engine.generate_stream("list " * 400).collect()
    assert engine.is_available
    assert engine.generate_stream("A list is", **GREEDY).collect()


def test_there_is_one_of_it_and_another_configuration_is_refused(engine, config) -> None:
    assert StreamingVllmEngine.get_instance(config) is engine
    other = StreamingVllmConfig(config.model, 128, 8, OPTIONS)
    with pytest.raises(ConfigError, match="other context_length"):
        StreamingVllmEngine.get_instance(other)


def test_a_model_that_is_not_there_is_told_by_the_stream(config) -> None:
    engine = StreamingVllmEngine(StreamingVllmConfig("/no/such/model", options=OPTIONS))
    assert engine.is_available
    with pytest.raises(EngineStartFailed, match="/no/such/model"):
        engine.generate_stream("Hi").collect()
    assert not engine.is_available
    engine.shutdown()


def test_a_child_that_is_killed_ends_its_streams_with_an_error_after_their_tokens(config) -> None:
    engine = StreamingVllmEngine(config)
    stream = engine.generate_stream("A list is", max_tokens=None, ignore_eos=True)
    assert next(stream).token_id is not None
    child = psutil.Process(core(engine).pid)
    child.kill()
    with pytest.raises(Exception, match="SIGKILL"):
        stream.collect()
    assert not engine.is_available
    engine.shutdown()
    assert not child.is_running()


def test_the_program_of_the_page_runs_as_printed(config, tmp_path) -> None:
    found = re.search(
        r"<!-- file: own_vllm.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    program = tmp_path / "own_vllm.py"
    program.write_text(found[1])
    done = subprocess.run(
        [sys.executable, str(program), config.model],
        cwd=os.sep,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, ending = done.stdout.rstrip("\n").rsplit("\n", 1)
    assert text.strip()
    assert ending == "12 length"


def test_in_this_process_it_says_the_same(config, engine) -> None:
    """In a program of its own, for vLLM in one's own process changes it."""
    wanted = engine.generate_stream("A list is", **GREEDY).collect()
    program = f"""
import sys
from enginery_vllm import StreamingVllmConfig, StreamingVllmEngine
config = StreamingVllmConfig({config.model!r}, 256, 8, {OPTIONS!r}, client="inproc")
engine = StreamingVllmEngine.get_instance(config)
print(repr(engine.generate_stream("A list is", **{GREEDY!r}).collect()))
stream = engine.generate_stream("A list is", max_tokens=None, ignore_eos=True)
next(stream)
if sys.argv[1] == "shutdown":
    engine.shutdown()
    print(stream.finish_reason)
"""
    for ending, wanted_end in (("shutdown", "abort"), ("leave", None)):
        done = subprocess.run(
            [sys.executable, "-c", program, ending],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert repr(wanted) in done.stdout
        if wanted_end is not None:
            assert done.stdout.splitlines()[-1] == wanted_end
