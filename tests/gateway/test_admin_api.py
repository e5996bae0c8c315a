"""The operators' routes and the metrics of a gateway over real mocks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.gateways import serving

CHAT = "/v1/chat/completions"
MODELS: dict[str, Any] = {
    "one": {"aliases": ["first"], "options": {"memory": 1}},
    "two": {"variants": {"short": {"context_length": 512}, "long": {"context_length": 4096}}},
}


def ask(model: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    return {**body, **more}


@pytest.fixture
async def gateway():
    async with serving(MODELS) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway):
    async with aiohttp.ClientSession(gateway.base_url) as client:
        yield client


async def call(client: aiohttp.ClientSession, method: str, path: str, **how: Any) -> Any:
    async with client.request(method, path, **how) as reply:
        return reply.status, await reply.json()


async def error_code(client: aiohttp.ClientSession, method: str, path: str, **how: Any) -> Any:
    status, body = await call(client, method, path, **how)
    return status, body["error"]["code"]


async def events(reply: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in reply.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def test_engines_are_loaded_and_unloaded_by_name_alias_or_instance(client) -> None:
    assert await call(client, "GET", "/api/engines") == (200, {"engines": []})
    status, row = await call(client, "POST", "/api/models/first/load")
    assert (status, row["id"], row["state"], row["in_flight"]) == (200, "one/default", "ready", 0)
    assert row["pid"] > 0
    assert set(row) >= {
        *("id", "model", "variant", "engine", "state", "reason", "pid", "address", "in_flight"),
        *(
            "queued",
            "memory",
            "started_at",
            "idle_s",
            "ttl_left_s",
            "starts",
            "restarts",
            "last_error",
        ),
    }
    assert (await call(client, "GET", "/api/engines"))[1]["engines"][0]["id"] == "one/default"
    status, row = await call(client, "POST", "/api/models/two/long/load")
    assert (status, row["id"], row["state"]) == (200, "two/long", "ready")
    status, row = await call(client, "POST", "/api/models/two/load", json={"variant": "short"})
    assert (status, row["id"], row["state"]) == (200, "two/short", "ready")
    status, row = await call(client, "POST", "/api/models/two%2Fshort/unload")
    assert (status, row["id"], row["state"], row["pid"]) == (200, "two/short", "stopped", None)
    status, row = await call(client, "POST", "/api/models/one/unload")  # it is not there: done
    assert (status, row["state"]) == (200, "stopped")


async def test_who_does_not_wait_is_told_that_it_was_taken(client, gateway, eventually) -> None:
    status, row = await call(client, "POST", "/api/models/one/load?wait=0")
    assert (status, row["id"], row["state"]) == (202, "one/default", "starting")
    await eventually(lambda: gateway.manager.status()[0].state == "ready", 30)
    status, row = await call(client, "POST", "/api/models/one/unload?wait=0")
    assert (status, row["state"]) == (202, "stopping")
    await eventually(lambda: gateway.manager.status()[0].state == "stopped", 30)


@pytest.mark.parametrize("drain", [True, False])
async def test_an_unload_lets_requests_finish_unless_told_otherwise(drain, eventually) -> None:
    slow = {"one": {"options": {"itl_ms": 30}}}
    async with serving(slow) as gateway, aiohttp.ClientSession(gateway.base_url) as client:
        await gateway.manager.load("one")
        body = ask("one", stream=True, max_tokens=15 if drain else 30_000)
        async with client.post(CHAT, json=body) as stream:
            assert b"data" in await stream.content.readline()
            path = "/api/models/one/unload"
            unloading = asyncio.create_task(call(client, "POST", path, json={"drain": drain}))
            said = await stream.read()
            assert b"[DONE]" in said
            assert (b"engine_evicted" in said) != drain
        assert (await unloading)[1]["state"] == "stopped"


async def test_what_is_asked_in_a_wrong_way_is_told(client) -> None:
    rows: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", "/api/models/on/load", {}, 404, "model_not_found"),
        ("POST", "/api/models/on/unload", {}, 404, "model_not_found"),
        ("GET", "/api/models/on/logs", {}, 404, "model_not_found"),
        ("POST", "/api/models/two/none/load", {}, 404, "model_not_found"),
        ("POST", "/api/models/..%2f..%2fetc%2fpasswd/load", {}, 404, "model_not_found"),
        ("GET", "/api/models/%2e%2e/%2e%2e/logs", {}, 404, "endpoint_not_supported"),
        ("GET", "/api/models/one%00/logs", {}, 404, "model_not_found"),
        (
            "POST",
            "/api/models/two/load",
            {"json": {"variant": "none"}},
            400,
            "invalid_request_error",
        ),
        ("POST", "/api/models/two/load", {"json": {"variant": 3}}, 400, "invalid_request_error"),
        ("POST", "/api/models/one/unload", {"json": {"drain": "no"}}, 400, "invalid_request_error"),
        ("POST", "/api/models/one/unload", {"data": b"[1]"}, 400, "invalid_request_error"),
        ("POST", "/api/models/one/unload", {"data": b"{"}, 400, "invalid_request_error"),
        ("POST", "/api/models/one/unload", {"data": b"[" * 70_000}, 400, "invalid_request_error"),
        ("GET", "/api/models/one/logs?lines=x", {}, 400, "invalid_request_error"),
        ("GET", "/api/models/one/logs?lines=-1", {}, 400, "invalid_request_error"),
        ("GET", "/api/models/one/logs?lines=99999", {}, 400, "invalid_request_error"),
        ("GET", "/api/models/one/load", {}, 405, "method_not_allowed"),
        ("POST", "/api/engines", {}, 405, "method_not_allowed"),
        ("DELETE", "/api/config", {}, 405, "method_not_allowed"),
        ("GET", "/api/nothing", {}, 404, "endpoint_not_supported"),
    ]
    for method, path, how, status, code in rows:
        assert await error_code(client, method, path, **how) == (status, code), path
    _, body = await call(client, "POST", "/api/models/on/load")
    assert "did you mean one?" in body["error"]["message"]


async def test_a_failed_load_says_why() -> None:
    broken = {"broken": {"options": {"load_exit_code": 3}}}
    async with serving(broken) as gateway, aiohttp.ClientSession(gateway.base_url) as own:
        status, body = await call(own, "POST", "/api/models/broken/load")
        assert (status, body["error"]["code"]) == (502, "engine_start_failed")
        row = (await call(own, "GET", "/api/engines"))[1]["engines"][0]
        assert (row["state"], "exit" in row["last_error"]) == ("failed", True)


async def test_logs_are_shown_and_followed_over_a_restart(client, gateway) -> None:
    await gateway.manager.load("one")
    async with client.get("/api/models/first/logs?lines=2") as reply:
        assert reply.content_type == "text/plain"
        shown = (await reply.text()).splitlines()
        assert len(shown) == 2
    async with client.get("/api/models/one/logs?follow=1&lines=5") as following:
        lines = following.content
        while b"ready" not in await asyncio.wait_for(lines.readline(), 30):
            pass
        await gateway.manager.unload("one")
        await gateway.manager.load("one")
        while b"listening" not in await asyncio.wait_for(lines.readline(), 30):
            pass


async def test_events_tell_a_swap_from_its_first_request_to_its_last(client, gateway) -> None:
    async with client.get("/api/events") as stream:
        assert stream.content_type == "text/event-stream"
        for model in ("one", "two"):
            await call(client, "POST", CHAT, json=ask(model))
        await error_code(client, "POST", CHAT, json=ask("none"))
        await error_code(client, "POST", "/v1/nothing", json=ask("one"))
        seen: list[dict[str, Any]] = []
        async for event in events(stream):
            seen.append(event)
            if [e["type"] for e in seen].count("request.failed") == 2:
                break
    assert [event["seq"] for event in seen] == list(range(seen[0]["seq"], seen[-1]["seq"] + 1))
    assert all({"seq", "at", "type", "model", "variant", "instance"} <= set(e) for e in seen)
    now_and_then = {"load.progress", "memory.sampled", "request.sampled"}
    kinds = [event["type"] for event in seen if event["type"] not in now_and_then]
    states = ["instance.state"] * 2
    assert kinds == [
        *("request.queued", *states, "request.granted", "request.finished"),
        *("request.queued", "instance.state", "swap.begun", *states, *states, "swap.finished"),
        *("request.granted", "request.finished", "request.failed", "request.failed"),
    ]
    begun, over = (next(e for e in seen if e["type"] == f"swap.{x}") for x in ("begun", "finished"))
    assert (begun["instance"], begun["victim"]) == ("two/short", "one/default")
    assert (over["instance"], over["victims"]) == ("two/short", ["one/default"])
    assert over["outcome"] == "ok"
    done = [event for event in seen if event["type"] == "request.finished"]
    assert [(e["model"], e["variant"], e["status"], e["outcome"]) for e in done] == [
        ("one", "default", 200, "ok"),
        ("two", "short", 200, "ok"),
    ]
    assert done[0]["completion_tokens"] == 4
    failed = [event["code"] for event in seen if event["type"] == "request.failed"]
    assert failed == ["model_not_found", "endpoint_not_supported"]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_events_tell_a_streams_first_token_and_its_pace_while_it_runs(fast: bool) -> None:
    slow = {"one": {"options": {"itl_ms": 20}}}
    async with (
        serving(slow, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        await call(client, "POST", CHAT, json=ask("one"))  # nobody listens
        async with client.get("/api/events") as stream:
            told = events(stream)
            await call(client, "POST", CHAT, json=ask("one"))
            await error_code(client, "POST", CHAT, json=ask("none", stream=True))
            endless = ask("one", stream=True, max_tokens=30_000)
            async with client.post(CHAT, json=endless) as reply:
                seen = [event async for event in until(told, "request.first_token")]
                first = seen[-1]
                await reply.content.readline()
                began = monotonic()
                for second in (0, 1):
                    gateway._watch.look(began + second)
                looks = [event async for event in until(told, "request.sampled")]
                looks += [event async for event in until(told, "request.sampled")]
            done = [event async for event in until(told, "request.finished")][-1]
    kinds = [event["type"] for event in seen]
    assert kinds.count("request.first_token") == 1, "a whole reply and a refusal have none"
    assert kinds.count("request.finished") == 1
    assert (first["model"], first["instance"], first["request"]) == (
        "one",
        "one/default",
        done["request"],
    )
    assert first["first_byte_s"] > 0
    (row,) = looks[-1]["requests"]
    assert (row["request"], row["first_byte_s"]) == (first["request"], first["first_byte_s"])
    assert row["chunks_per_s"] >= 0
    assert done["outcome"] == "client_gone"


async def until(told: AsyncIterator[dict[str, Any]], type_: str) -> AsyncIterator[dict[str, Any]]:
    """The events up to the first of this type."""
    async for event in told:
        yield event
        if event["type"] == type_:
            return


async def test_streams_of_events_and_logs_end_with_the_gateway() -> None:
    async with serving(MODELS) as gateway, aiohttp.ClientSession(gateway.base_url) as client:
        streams = [
            await client.get("/api/events"),
            await client.get("/api/models/one/logs?follow=1"),
        ]
        await asyncio.wait_for(gateway.stop(), 30)
        for stream in streams:
            with suppress(aiohttp.ClientPayloadError):
                await asyncio.wait_for(stream.read(), 30)


async def test_plugins_are_listed_without_being_imported_and_blocked_ones_with_the_reason(
    client,
) -> None:
    _, body = await call(client, "GET", "/api/plugins")
    states = {row["engine_type"]: row["state"] for row in body["plugins"]}
    assert states["llama.cpp"] == "found"
    assert {"openai", "mock"} <= set(states)


# -- metrics ---------------------------------------------------------------------------------------------


async def numbers(client: aiohttp.ClientSession, accept: str = "") -> dict[tuple[str, ...], float]:
    """Each sample's value by its name and its labels' values, in the labels' order."""
    async with client.get("/metrics", headers={"Accept": accept}) as reply:
        assert reply.status == 200
        assert "python" not in reply.headers["Server"].lower()
        page = await reply.text()
    return {
        (sample.name.removeprefix("enginery_"), *(v for _, v in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
async def test_the_numbers_after_known_traffic_are_the_known_ones(fast: bool) -> None:
    own = {"one": MODELS["one"], "two": {"options": {"memory": 1}}}
    async with (
        serving(own, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for _ in range(3):
            assert (await call(client, "POST", CHAT, json=ask("one")))[0] == 200
        usage = {"stream_options": {"include_usage": True}}
        for _ in range(2):
            async with client.post(CHAT, json=ask("two", stream=True, **usage)) as reply:
                assert b"[DONE]" in await reply.read()
        for model in ("none", "other"):
            assert (await call(client, "POST", CHAT, json=ask(model)))[0] == 404
        assert (await call(client, "POST", "/a/made-up/path", json=ask("one")))[0] == 404
        async with client.get("/v1/models", headers={"Host": "evil.example"}) as reply:
            assert reply.status == 403
        found = await numbers(client)
        one, two = ("mock", "one"), ("mock", "two")
        route, default = "/v1/chat/completions", "default"
        requests = {key[1:]: v for key, v in found.items() if key[0] == "requests_total"}
        assert requests == {
            ("200", *one, route, default): 3,
            ("200", *two, route, default): 2,
            ("404", "", "", route, ""): 2,
            ("404", "", "", "other", ""): 1,
            ("403", "", "", "other", ""): 1,
        }
        assert found["generation_tokens_total", *one, default] == 12
        assert found["generation_tokens_total", *two, default] == 8
        assert found["prompt_tokens_total", *one, default] > 3
        assert found["time_to_first_token_seconds_count", *one, default] == 0  # no streams
        assert found["time_to_first_token_seconds_count", *two, default] == 2
        assert found["inter_token_latency_seconds_count", *two, default] == 6
        for name in ("e2e_request_latency", "gateway_overhead", "queue_wait"):
            assert found[f"{name}_seconds_count", *one, default] == 3
            bound = f"{name}_seconds_bucket"
            assert found[bound, "mock", "+Inf", "one", default] == 3
        assert found["engine_starts_total", *one, "ok", default] == 1
        assert found["engine_start_seconds_count", *two, default] == 1
        for phase in ("drain", "stop"):
            assert found["swap_seconds_count", *one, phase, default] == 1
        assert found["swap_seconds_count", *two, "start", default] == 1
        assert found["engine_state", *one, "stopped", default] == 1
        assert found["engine_state", *two, "ready", default] == 1
        assert found["engine_state", *two, "stopped", default] == 0
        assert found["requests_in_flight", *two, default] == 0
        assert found["requests_waiting", "two"] == 0
        assert found["memory_bytes", "ram", *two, default] > 0
        assert found["memory_free_bytes", "ram"] > 0
        assert found["client_disconnects_total", *one, default] == 0
        assert found["event_loop_lag_seconds",] >= 0
        assert [key for key in found if key[0] == "build_info"]
        openmetrics = "application/openmetrics-text; version=1.0.0"
        async with client.get("/metrics", headers={"Accept": openmetrics}) as reply:
            assert (await reply.text()).endswith("# EOF\n")


async def test_who_leaves_and_who_waits_is_counted(eventually) -> None:
    models = {"one": {"options": {"itl_ms": 50}, "parallel": 1}, "two": {"options": {"memory": 1}}}
    async with (
        serving(models, max_wait=600) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        long = ask("one", stream=True, max_tokens=2000)
        async with client.post(CHAT, json=long) as stream:
            await stream.content.readline()
            waiting = asyncio.create_task(call(client, "POST", CHAT, json=ask("two")))
            await eventually(lambda: gateway.manager.inspection.waiting()["two"] == 1, 30)
            found = await numbers(client)
            assert found["requests_waiting", "two"] == 1
            assert found["requests_in_flight", "mock", "one", "default"] == 1
        assert (await waiting)[0] == 200
        found = await numbers(client)
        assert found["client_disconnects_total", "mock", "one", "default"] == 1
        assert found["requests_total", "499", "mock", "one", CHAT, "default"] == 1
