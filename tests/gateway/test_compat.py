"""llama-swap's clients find its routes: ``/running``, ``/unload``, ``/upstream``; to engines that are real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.gateways import in_flight, serving

SERVER = Path(__file__).parents[1] / "support" / "any_server.py"
ANY = {
    "engine": "openai",
    "binary": sys.executable,
    "args": [str(SERVER), "{port}"],
    "aliases": ["nickname"],
    "ttl": 90,
}
MOCK = {"engine": "mock", "options": {"memory": 1}}
MODELS: dict[str, Any] = {"any": ANY, "vendor/any": {**ANY, "aliases": []}, "mock": MOCK}
KEYS = {"api_keys": ["a-key", {"key": "narrow", "models": ["mock"]}], "admin_keys": ["an-admins"]}


@pytest.fixture
async def house():
    async with serving(MODELS) as gateway:
        yield gateway


@pytest.fixture
async def client(house):
    async with aiohttp.ClientSession(house.base_url, auto_decompress=False) as session:
        yield session


async def asked(client: aiohttp.ClientSession, path: str, method: str = "GET", **how: Any) -> Any:
    async with client.request(method, path, **how) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_any_method_path_query_and_body_reaches_the_engine_which_is_loaded_first(
    client,
) -> None:
    told = await asked(client, "/upstream/any/props/x%2Fy?a=1&b=%20", "PUT", data=b"\x00\xff")
    assert (told["method"], told["path"]) == ("PUT", "/props/x%2Fy?a=1&b=%20")
    assert told["body"] == "\x00\xff"
    for method in ("GET", "POST", "DELETE", "PATCH"):
        assert (await asked(client, "/upstream/any/", method))["method"] == method


async def test_a_body_in_chunks_goes_on_in_chunks(client) -> None:
    async def pieces():
        yield b"one "
        yield b"two"

    told = await asked(client, "/upstream/any/x", "POST", data=pieces())
    assert told["body"] == "one two"
    assert told["headers"]["transfer-encoding"] == "chunked"


async def test_no_credential_goes_on_and_no_cookie_comes_back(client) -> None:
    sent = {
        "Authorization": "Bearer clients-own",
        "Cookie": "session=1",
        "x-api-key": "clients-own",
        "Accept": "text/html",
        "x-request-id": "mine",
    }
    async with client.get("/upstream/any/x", headers=sent) as reply:
        told = (await reply.json())["headers"]
        assert "clients-own" not in str(told)
        assert "cookie" not in told
        assert (told["accept"], told["x-request-id"]) == ("text/html", "mine")
        assert told["authorization"].startswith("Bearer "), "the key of this start"
        assert reply.headers["ETag"] == '"tag"'
        assert reply.headers["x-request-id"] == "mine"
        assert "Set-Cookie" not in reply.headers


async def test_statuses_heads_and_redirects_come_back_as_they_are(client) -> None:
    async with client.get("/upstream/any/short") as reply:
        assert (reply.status, await reply.text()) == (418, "short and stout")
    async with client.get("/upstream/any/moved", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (302, "elsewhere")
    async with client.head("/upstream/any/short") as reply:
        assert (reply.status, reply.headers["Content-Length"]) == (418, "15")
        assert await reply.read() == b""


async def test_names_with_slashes_and_aliases_are_found_and_the_bare_name_leads_to_its_slash(
    client,
) -> None:
    assert (await asked(client, "/upstream/vendor/any/x"))["path"] == "/x"
    assert (await asked(client, "/upstream/vendor%2Fany/x"))["path"] == "/x"
    assert (await asked(client, "/upstream/nickname/x"))["path"] == "/x"
    for method, status in (("GET", 301), ("POST", 308)):
        async with client.request(method, "/upstream/any?q=1", allow_redirects=False) as reply:
            assert (reply.status, reply.headers["Location"]) == (status, "/upstream/any/?q=1")


async def test_a_model_that_is_not_there_is_told_with_its_neighbours(client) -> None:
    async with client.get("/upstream/mok/x") as reply:
        assert reply.status == 404
        assert "did you mean mock?" in (await reply.json())["error"]["message"]


async def test_a_reply_that_breaks_off_is_no_whole_one_and_the_lease_ends(
    house, client, eventually
) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.get("/upstream/any/cut") as reply:
            await reply.read()
    await eventually(lambda: not in_flight(house), timeout=20)


async def test_a_client_that_leaves_ends_the_lease(house, client, eventually) -> None:
    async with client.get("/upstream/any/held") as reply:
        assert await reply.content.readexactly(4) == b"half"
        assert in_flight(house) == 1
        reply.close()
    await eventually(lambda: not in_flight(house), timeout=20)


async def test_an_engine_that_is_taken_away_cuts_the_reply(house, client, eventually) -> None:
    async with client.get("/upstream/any/held") as reply:
        assert await reply.content.readexactly(4) == b"half"
        await house.manager.unload("any", drain=False)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
    assert not in_flight(house)


async def test_a_body_over_the_limit_is_refused() -> None:
    async def pieces():
        for _ in range(5):
            yield b"x" * 1000

    async with (
        serving(MODELS, server={"body_limit": 2000}) as house,
        aiohttp.ClientSession(house.base_url) as client,
    ):
        for body in (b"x" * 2001, pieces()):
            async with client.post("/upstream/any/x", data=body) as reply:
                assert reply.status == 413, await reply.text()
                assert (await reply.json())["error"]["code"] == "body_too_large"


async def test_what_runs_is_shown_in_llama_swaps_shape(client) -> None:
    assert await asked(client, "/running") == {"running": []}
    await asked(client, "/upstream/any/x")
    (entry,) = (await asked(client, "/running"))["running"]
    assert entry.pop("proxy").startswith("http://127.0.0.1:")
    assert entry == {
        "model": "any",
        "state": "ready",
        "cmd": "",
        "ttl": 90,
        "name": "",
        "description": "",
    }


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unload_stops_every_engine(client, method) -> None:
    await asked(client, "/upstream/any/x")
    async with client.request(method, "/unload") as reply:
        assert (reply.status, await reply.text()) == (200, "OK")
    assert await asked(client, "/running") == {"running": []}


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/running", "POST", 405), ("/unload", "DELETE", 405), ("/upstream", "GET", 404)],
)
async def test_other_methods_are_refused(client, path, method, status) -> None:
    async with client.request(method, path) as reply:
        assert reply.status == status
        assert "error" in await reply.json()


ROWS = [
    (None, "/running", 401),
    (None, "/upstream/mock/health", 401),
    ("narrow", "/upstream/any/x", 404),
    ("narrow", "/upstream/mock/health", 200),
    ("a-key", "/upstream/mock/health", 200),
    ("a-key", "/unload", 403),
    ("an-admins", "/unload", 200),
]


async def test_keys_open_here_what_they_open_elsewhere() -> None:
    async with (
        serving(MODELS, server=KEYS) as house,
        aiohttp.ClientSession(house.base_url) as client,
    ):
        for key, path, status in ROWS:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with client.get(path, headers=headers) as reply:
                assert reply.status == status, (key, path, await reply.text())
        seen = await asked(client, "/upstream/any/x", headers={"x-api-key": "a-key"})
        assert seen["path"] == "/x"
        headers = {"Authorization": "Bearer narrow"}
        assert await asked(client, "/running", headers=headers) == {"running": []}, "not its models"


@pytest.mark.parametrize("path", ["/unload", "/upstream/any/x"])
async def test_pages_of_other_sites_can_neither_load_nor_unload(house, client, path) -> None:
    async with client.get(path, headers={"Sec-Fetch-Site": "cross-site"}) as reply:
        assert reply.status == 403
        assert (await reply.json())["error"]["code"] == "forbidden_origin"
    assert not house.manager.status()


async def test_websockets_are_refused_in_words(client) -> None:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade"}
    async with client.get("/upstream/any/ws", headers=headers) as reply:
        assert reply.status == 501


async def test_requests_wait_their_turn_like_all_others(client) -> None:
    async def one(model: str) -> int:
        async with client.get(f"/upstream/{model}/health") as reply:
            return reply.status

    assert await asyncio.gather(*(one(m) for m in ("any", "mock") * 4)) == [200] * 8
