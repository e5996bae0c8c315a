"""Who gets in, over real sockets: hosts, origins, keys and admins, on the short way and on the long one."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from enginery import EngineManager, Settings
from enginery.errors import ConfigError
from enginery.gateway import Gateway
from enginery.settings.secrets import HIDDEN
from support.gateways import QUICK, serving

CHAT = "/v1/chat/completions"
KEYS: dict[str, Any] = {
    "api_keys": ["key-of-all", {"key": "key-of-small", "models": ["small"]}],
    "admin_keys": ["key-of-admin"],
    "allowed_origins": ["https://chat.example.org"],
}
SMALL: dict[str, Any] = {"small": {"options": {"memory": 1}, "aliases": ["tiny"]}}
BOTH: dict[str, Any] = {**SMALL, "large": {"options": {"memory": 1}}}


def ask(model: str = "small") -> dict[str, Any]:
    return {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def fast(request) -> bool:
    return bool(request.param)


async def code_of(reply: aiohttp.ClientResponse) -> str:
    body = await reply.json()
    if reply.status == 200:
        return "ok"
    assert set(body["error"]) == {"message", "type", "param", "code", "source"}
    assert reply.headers["x-request-id"]
    assert (reply.status == 401) == (reply.headers.get("WWW-Authenticate") == "Bearer")
    return str(body["error"]["code"])


async def test_hosts_origins_and_keys_are_checked_on_both_ways(fast: bool) -> None:
    rows: list[tuple[dict[str, str], str, str]] = [
        ({"Authorization": "Bearer key-of-all"}, "small", "ok"),
        ({"Authorization": "Bearer key-of-all"}, "large", "ok"),
        ({"x-api-key": "key-of-all"}, "small", "ok"),
        ({"Authorization": "Bearer key-of-admin"}, "large", "ok"),
        ({"Authorization": "Bearer key-of-small"}, "small", "ok"),
        ({"x-api-key": "key-of-small"}, "tiny", "ok"),
        ({"x-api-key": "key-of-small"}, "large", "model_not_found"),
        ({"x-api-key": "key-of-small"}, "none", "model_not_found"),
        ({}, "small", "invalid_api_key"),
        ({"Authorization": "Bearer wrong"}, "small", "invalid_api_key"),
        ({"Authorization": "Bearer ключ"}, "small", "invalid_api_key"),
        ({"x-api-key": "clé"}, "small", "invalid_api_key"),
        ({"x-api-key": "key-of-all", "Host": "evil.example"}, "small", "forbidden_host"),
        ({"x-api-key": "key-of-all", "Host": ""}, "small", "forbidden_host"),
        (
            {"x-api-key": "key-of-all", "Origin": "https://evil.example"},
            "small",
            "forbidden_origin",
        ),
        ({"x-api-key": "key-of-all", "Origin": "null"}, "small", "forbidden_origin"),
        ({"x-api-key": "key-of-all", "Origin": "https://chat.example.org"}, "small", "ok"),
        ({"Origin": "https://chat.example.org"}, "small", "invalid_api_key"),
    ]
    async with (
        serving(BOTH, fast=fast, server=KEYS, together=True) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for _ in range(2):  # the second time the engines are there, and connections are kept
            for headers, model, wanted in rows:
                async with client.post(CHAT, json=ask(model), headers=headers) as reply:
                    assert await code_of(reply) == wanted, (headers, model)
                    told = " ".join(reply.headers.values()).lower()
                    assert "aiohttp" not in told
                    assert "python" not in told
                    page = reply.headers.get("Access-Control-Allow-Origin")
                    allowed = headers.get("Origin") == "https://chat.example.org"
                    assert page == ("https://chat.example.org" if allowed else None)


async def test_a_key_sees_the_models_that_it_may_use_and_no_others() -> None:
    async with (
        serving(BOTH, server=KEYS, together=True) as gateway,
        aiohttp.ClientSession(gateway.base_url, headers={"x-api-key": "key-of-small"}) as client,
    ):
        async with client.get("/v1/models") as reply:
            assert [card["id"] for card in (await reply.json())["data"]] == ["small"]
        async with client.get("/v1/models/tiny") as reply:
            assert (await reply.json())["id"] == "small"
        for name in ("large", "larg", "none"):
            async with client.get(f"/v1/models/{name}") as reply:
                assert await code_of(reply) == "model_not_found"
                assert "models: " not in (await reply.json())["error"]["message"]
        async with client.post(CHAT, json=ask("larg")) as reply:
            assert "'large'" not in (await reply.json())["error"]["message"]
        async with client.get("/metrics") as reply:
            assert await code_of(reply) == "admin_required"


async def test_a_browser_is_told_what_a_page_may_do() -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-os",
    }
    async with (
        serving(SMALL, server=KEYS) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        friend = {**asked, "Origin": "https://chat.example.org"}
        async with client.options(CHAT, headers=friend) as reply:
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == "https://chat.example.org"
            assert reply.headers["Access-Control-Allow-Headers"].endswith("x-stainless-os")
            assert "Access-Control-Allow-Credentials" not in reply.headers
            assert reply.headers["Vary"] == "Origin"
        async with client.options(
            CHAT, headers={**asked, "Origin": "https://evil.example"}
        ) as reply:
            assert await code_of(reply) == "forbidden_origin"
            assert "Access-Control-Allow-Origin" not in reply.headers


ADMIN = [
    ("GET", "/api/engines"),
    ("GET", "/api/config"),
    ("GET", "/api/plugins"),
    ("GET", "/api/events"),
    ("GET", "/api/models/small/logs"),
    ("POST", "/api/models/small/load"),
    ("POST", "/api/models/small/unload"),
]


async def test_operators_routes_want_an_admins_key() -> None:
    rows = [("key-of-all", "admin_required"), ("wrong", "invalid_api_key"), ("", "invalid_api_key")]
    async with (
        serving(SMALL, server=KEYS) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for method, path in ADMIN:
            for key, wanted in rows:
                headers = {"x-api-key": key} if key else {}
                async with client.request(method, path, headers=headers) as reply:
                    assert await code_of(reply) == wanted, (path, key)
        async with client.get("/api/engines", headers={"x-api-key": "key-of-admin"}) as reply:
            assert await reply.json() == {"engines": []}


async def test_without_an_admins_key_they_are_for_this_machine_and_not_for_whom_a_proxy_brings() -> (
    None
):
    async with (
        serving(SMALL) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        async with client.get("/api/engines") as reply:
            assert reply.status == 200
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            async with client.get("/api/engines", headers={header: "10.0.0.1"}) as reply:
                assert await code_of(reply) == "admin_required"


async def test_rules_are_replaced_while_it_runs(fast: bool) -> None:
    async with (
        serving(SMALL, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for _ in range(2):
            async with client.post(CHAT, json=ask()) as reply:
                assert await code_of(reply) == "ok"
        server = gateway.manager.settings.server
        gateway.adopt(Settings(server={"api_keys": ["new-key"], "body_limit": 100}).server)
        async with client.post(CHAT, json=ask()) as reply:
            assert await code_of(reply) == "invalid_api_key"
        long = {**ask(), "user": "x" * 200}
        key = {"x-api-key": "new-key"}
        async with client.post(CHAT, json={"model": "small"}, headers=key) as reply:
            assert await code_of(reply) not in {"invalid_api_key", "body_too_large"}
        async with client.post(CHAT, json=long, headers=key) as reply:
            assert await code_of(reply) == "body_too_large"
        gateway.adopt(server)
        async with client.post(CHAT, json=ask()) as reply:
            assert await code_of(reply) == "ok"


async def test_it_does_not_open_to_everybody_by_oversight() -> None:
    async with EngineManager(Settings()) as manager:
        with pytest.raises(ConfigError, match="no key is asked for"):
            await Gateway(manager, host="0.0.0.0", port=0).start()


async def test_a_secret_is_nowhere_but_where_it_belongs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs, processes, metrics, events, errors, settings: the canary sits in none of them."""
    canary = "canary-7c1e5b"
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []
    printing = "import os, sys; sys.stderr.write('my token is ' + os.environ['HF_TOKEN'] + chr(10)); sys.exit(3)"
    settings = Settings(
        defaults=QUICK,
        budget={"ram": 2**40},
        server={"api_keys": [f"{canary}-1"], "admin_keys": [f"{canary}-2"]},
        models={
            "small": {"options": {"memory": 1}, "env": {"API_TOKEN": f"{canary}-3"}},
            "hosted": {"engine": "openai", "url": "http://127.0.0.1:9", "api_key": f"{canary}-4"},
            "chatty": {
                "engine": "openai",
                "binary": "python3",
                "args": ["-c", printing],
                "env": {"HF_TOKEN": f"{canary}-5"},
            },
        },
    )
    admin = {"Authorization": f"Bearer {canary}-2"}
    async with (
        EngineManager(settings) as manager,
        Gateway(manager, port=0) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
        client.get("/api/events", headers=admin) as events,
    ):
        for model in ("small", "hosted", "chatty", "none", "small"):
            key = {"x-api-key": f"{canary}-1"}
            async with client.post(CHAT, json=ask(model), headers=key) as reply:
                seen += [await reply.read(), str(reply.headers).encode()]
                assert (reply.status == 200) == (model == "small")
        async with client.post(CHAT, json=ask(), headers={"x-api-key": f"{canary}-9"}) as reply:
            assert reply.status == 401
            seen.append(await reply.read())
        for path in ("/metrics", "/api/engines", "/api/config", "/api/plugins", "/v1/models"):
            async with client.get(path, headers=admin) as reply:
                assert reply.status == 200
                seen.append(await reply.read())
        for model in ("small", "chatty"):
            async with client.get(f"/api/models/{model}/logs", headers=admin) as reply:
                seen.append(await reply.read())
        assert f"my token is {HIDDEN}".encode() in seen[-1]
        engines = psutil.Process().children(recursive=True)
        seen += [" ".join(process.cmdline()).encode() for process in engines]
        keys = [e.endpoint.api_key for e in manager.inspection.running()]
        async with client.post("/api/models/small/unload", headers=admin) as reply:
            seen.append(await reply.read())
        while b"stopping" not in (line := await asyncio.wait_for(events.content.readline(), 30)):
            seen.append(line)
    seen.append("\n".join(record.getMessage() for record in caplog.records).encode())
    assert len(engines) > 1
    assert keys
    assert all(keys)
    everything = b"\n".join(seen)
    assert b"instance.state" in everything
    for secret in (canary, *keys):
        assert str(secret).encode() not in everything
    assert json.dumps(HIDDEN).encode() in everything
