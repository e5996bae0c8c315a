"""`enginery_vllm.health`, on an engine that answers what it is told to."""

from __future__ import annotations

import json

import pytest

from enginery import Endpoint, EngineReply, EngineUnreachable, RunningEngine, Variant
from enginery_vllm.health import check_health
from enginery_vllm.options import options_of


def engine_of(replies, **options) -> RunningEngine:
    async def transport(method, path, body, timeout) -> EngineReply:
        assert method == "GET"
        found = replies[path]
        if found is None:
            raise EngineUnreachable("nothing there")
        status, said = found
        return EngineReply(status, {}, json.dumps(said).encode())

    variant = Variant("m", engine_type="vllm", options=options_of(options))
    return RunningEngine(variant, Endpoint("h", 1, "key"), 1, transport)


@pytest.mark.parametrize("sleep", [False, True, "pause"])
@pytest.mark.parametrize(
    ("health", "sleeping", "state"),
    [
        (None, None, "starting"),
        ((200, ""), (200, {"is_sleeping": False}), "ready"),
        ((503, ""), (200, {"is_sleeping": False}), "failed"),
        ((401, ""), None, "failed"),
        ((404, ""), None, "failed"),
    ],
)
async def test_it_says_how_it_is(health, sleeping, state, sleep) -> None:
    engine = engine_of({"/health": health, "/is_sleeping": sleeping}, sleep=sleep)
    assert (await check_health(engine)).state == state


@pytest.mark.parametrize("sleep", [True, "pause"])
async def test_it_is_asked_whether_it_sleeps_where_it_can(sleep) -> None:
    replies = {"/health": (200, ""), "/is_sleeping": (200, {"is_sleeping": True})}
    assert (await check_health(engine_of(replies, sleep=sleep))).state == "asleep"
    assert (await check_health(engine_of(replies))).state == "ready"


@pytest.mark.parametrize("said", [(404, {"detail": "Not Found"}), (200, []), (200, {})])
async def test_a_server_that_has_no_such_route_does_not_sleep(said) -> None:
    replies = {"/health": (200, ""), "/is_sleeping": said}
    assert (await check_health(engine_of(replies, sleep=True))).state == "ready"


async def test_it_may_go_away_between_two_questions() -> None:
    engine = engine_of({"/health": (200, ""), "/is_sleeping": None}, sleep=True)
    assert (await check_health(engine)).state == "starting"


async def test_a_dead_engine_core_is_named() -> None:
    assert "engine core" in (await check_health(engine_of({"/health": (503, "")}))).detail
