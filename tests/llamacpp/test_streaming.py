"""Streams of the model in this package, over HTTP and in process: what they say without a stream, in all three ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from enginery import Variant
from enginery.enginecore import (
    ClientConfig,
    EngineCoreRequest,
    InprocClient,
    SamplingParams,
)
from enginery.streaming import StreamingConfig, StreamingEngine, core_source, http_source
from enginery_llamacpp import LlamaCppEngine
from enginery_llamacpp.backend import LlamaCppBackend
from enginery_llamacpp.plugin import DEMO_MODEL

PATIENCE = 30.0
PROMPT = "List objects are"
CHAT = [{"role": "user", "content": PROMPT}]
PARAMS = {"max_tokens": 24, "temperature": 0.0}
PATIENT = StreamingConfig(flush_interval_ms=1e6)


@pytest.fixture(scope="module")
def over_http(start_server) -> Iterator[tuple[StreamingEngine, dict[str, str]]]:
    """An engine, and the plain replies of the same server: one slot, no prompt cache."""
    with start_server(str(DEMO_MODEL)) as server:
        asked = {**PARAMS, "cache_prompt": False}
        chat = server.request("/v1/chat/completions", {"messages": CHAT, **asked}).json()
        text = server.request("/v1/completions", {"prompt": PROMPT, **asked}).json()
        plain = {
            "chat": chat["choices"][0]["message"]["content"],
            "text": text["choices"][0]["text"],
        }
        client = LlamaCppEngine(server.endpoint.base_url, api_key=server.endpoint.api_key)
        with StreamingEngine(http_source(client), PATIENT) as engine:
            yield engine, plain


@pytest.fixture(scope="module")
def in_process() -> Iterator[tuple[StreamingEngine, dict[str, str]]]:
    """The same of the backend in this process."""
    options = {"model": str(DEMO_MODEL), "threads": 1}
    variant = Variant("docs", engine_type="llama.cpp", context_length=1024, options=options)
    config = ClientConfig(backend=LlamaCppBackend, options={"variant": variant}, timeout_s=PATIENCE)
    with InprocClient(config) as client:
        plain = {"chat": "", "text": ""}
        params = SamplingParams(**PARAMS)
        client.add_request(EngineCoreRequest("chat", messages=CHAT, sampling_params=params))
        client.add_request(EngineCoreRequest("text", prompt=PROMPT, sampling_params=params))
        while client.unfinished:
            for output in client.get_output().outputs:
                plain[output.request_id] += output.text
        with StreamingEngine(core_source(client), PATIENT) as engine:
            yield engine, plain


@pytest.fixture(params=["over_http", "in_process"])
def engine_and_replies(request) -> tuple[StreamingEngine, dict[str, str], dict]:
    engine, plain = request.getfixturevalue(request.param)
    more = {"cache_prompt": False} if request.param == "over_http" else {}
    return engine, plain, {**PARAMS, **more}


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_sync_program_gets_the_plain_reply_in_all_three_ways(engine_and_replies, kind):
    engine, plain, params = engine_and_replies
    prompt, wanted = {"chat": CHAT, "text": PROMPT}[kind], plain[kind]
    assert wanted
    assert engine.generate_stream(prompt, **params).collect() == wanted
    said: list[str] = []
    reply = engine.generate_with_callback(prompt, lambda *call: said.append(call[0]), **params)
    assert reply == "".join(said) == wanted
    assert "".join(engine.generate_buffered(prompt, 5, **params)) == wanted


@pytest.mark.parametrize("kind", ["chat", "text"])
async def test_an_async_program_gets_the_plain_reply_in_all_three_ways(engine_and_replies, kind):
    engine, plain, params = engine_and_replies
    prompt, wanted = {"chat": CHAT, "text": PROMPT}[kind], plain[kind]
    assert await engine.generate_stream(prompt, **params).acollect() == wanted
    said: list[str] = []
    reply = await engine.generate_with_callback_async(
        prompt, lambda *call: said.append(call[0]), **params
    )
    assert reply == "".join(said) == wanted
    batches = [each async for each in engine.generate_buffered(prompt, 5, **params)]
    assert "".join(batches) == wanted


def test_a_stream_that_is_left_gives_its_slot_back(engine_and_replies):
    engine, plain, params = engine_and_replies
    for _ in engine.generate_stream(PROMPT, max_tokens=500, temperature=0.0):
        break
    assert engine.generate_stream(PROMPT, **params).collect() == plain["text"]
