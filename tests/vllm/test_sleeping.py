"""`enginery_vllm.sleeping`, on an engine that sleeps as vLLM says it does."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from enginery import BadEngineReply, Endpoint, EngineReply, RunningEngine, Variant
from enginery_vllm.options import options_of
from enginery_vllm.serving.key_guard import PROOF, proof_of
from enginery_vllm.sleeping import Sleeping, levels_of


class Sleeper:
    """Remembers what it was asked; without its weights it does not wake."""

    def __init__(self, key: str | None = "key") -> None:
        self.asked: list[str] = []
        self.weights = True
        self.refuse: str | None = None
        variant = Variant("m", engine_type="vllm", options=options_of({"sleep": True}))
        self.engine = RunningEngine(variant, Endpoint("h", 1, key), 1, self.transport)

    async def transport(self, method, path, body, timeout) -> EngineReply:
        assert method == "POST"
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        key = self.engine.endpoint.api_key
        assert query.pop(PROOF, None) == (key and proof_of(key))
        words = [parts.path, *query.values(), *body.values()]
        self.asked.append(" ".join(words))
        if parts.path == self.refuse:
            return EngineReply(500, {}, b'{"error": "refused"}')
        said = {}
        if parts.path == "/sleep":
            self.weights = query["level"] != "2"
        elif parts.path == "/collective_rpc":
            self.weights = True
            said = {"results": [None]}
        elif parts.path == "/wake_up":
            said = {"status": "awake" if self.weights and "tags" not in query else "sleeping"}
        return EngineReply(200, {}, json.dumps(said).encode())


@pytest.mark.parametrize(("sleep", "levels"), [(False, ()), ("pause", (0,)), (True, (0, 1, 2))])
def test_the_levels_follow_from_the_option(sleep, levels) -> None:
    assert levels_of(Variant("m", engine_type="vllm", options={"sleep": sleep})) == levels


@pytest.mark.parametrize("level", [0, 1])
async def test_from_a_light_sleep_it_is_woken_by_one_call(level) -> None:
    sleeper, sleeping = Sleeper(), Sleeping()
    await sleeping.sleep(sleeper.engine, level)
    await sleeping.wake_up(sleeper.engine)
    assert sleeper.asked == [f"/sleep {level}", "/wake_up"]


async def test_from_a_deep_one_its_weights_are_read_again_before_the_cache_gets_memory() -> None:
    sleeper, sleeping = Sleeper(), Sleeping()
    for _ in range(2):
        await sleeping.sleep(sleeper.engine, 2)
        await sleeping.wake_up(sleeper.engine)
        assert sleeper.asked == [
            "/sleep 2",
            "/wake_up weights",
            "/collective_rpc reload_weights",
            "/wake_up",
        ]
        sleeper.asked.clear()
    await sleeping.sleep(sleeper.engine, 1)
    await sleeping.wake_up(sleeper.engine)
    assert sleeper.asked == ["/sleep 1", "/wake_up"]


async def test_each_engine_and_each_start_is_remembered_for_itself() -> None:
    deep, light, sleeping = Sleeper("a"), Sleeper("b"), Sleeping()
    await sleeping.sleep(deep.engine, 2)
    await sleeping.sleep(light.engine, 1)
    await sleeping.wake_up(light.engine)
    assert light.asked == ["/sleep 1", "/wake_up"]


@pytest.mark.parametrize("route", ["/wake_up", "/collective_rpc"])
async def test_a_waking_that_fails_is_told_and_begins_anew(route) -> None:
    sleeper, sleeping = Sleeper(), Sleeping()
    await sleeping.sleep(sleeper.engine, 2)
    sleeper.refuse = route
    with pytest.raises(BadEngineReply, match="HTTP 500") as failure:
        await sleeping.wake_up(sleeper.engine)
    assert proof_of("key") not in failure.value.message
    sleeper.refuse = None
    await sleeping.wake_up(sleeper.engine)
    assert sleeper.weights


async def test_an_engine_that_sleeps_on_is_told() -> None:
    sleeper, sleeping = Sleeper(), Sleeping()
    sleeper.weights = False
    with pytest.raises(BadEngineReply, match="sleeping"):
        await sleeping.wake_up(sleeper.engine)


async def test_a_sleep_that_is_refused_is_told() -> None:
    sleeper = Sleeper(None)
    sleeper.refuse = "/sleep"
    with pytest.raises(BadEngineReply, match="refused"):
        await Sleeping().sleep(sleeper.engine, 1)
