"""What is found at the address itself: the dashboard for browsers, a few lines of JSON for others, little for strangers."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from enginery import __version__
from enginery.gateway.root import wants_page
from support.gateways import serving

SMALL: dict[str, Any] = {"small": {"options": {"memory": 1}}}
KEYS: dict[str, Any] = {
    "api_keys": ["key-of-all", {"key": "key-of-small", "models": ["small"]}],
    "admin_keys": ["key-of-admin"],
}
BROWSERS = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (BROWSERS, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json, text/html", True),
        ("application/json;q=0.5, text/html;q=0.9", True),
        ("", False),
        ("*/*", False),  # curl, and every client library
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html;q=0.5", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=much", False),
        ("text/html5", False),
        (",;q=1,;,", False),
    ],
)
def test_a_page_is_wanted_by_who_names_it(accept: str, page: bool) -> None:
    assert wants_page(accept) == page


@pytest.fixture
async def client():
    async with serving(SMALL) as gateway, aiohttp.ClientSession(gateway.base_url) as session:
        yield session


async def test_a_browser_is_led_to_the_dashboard(client) -> None:
    asked = {"Accept": BROWSERS}
    async with client.get("/", headers=asked, allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (302, "ui/")
        assert reply.headers["Cache-Control"] == "no-store"
    async with client.get("/", headers=asked) as reply:
        assert (reply.status, reply.url.path) == (200, "/ui/")
        assert "<title>" in await reply.text()


async def test_everybody_else_reads_what_this_is_and_every_link_leads_somewhere(client) -> None:
    async with client.get("/") as reply:
        assert reply.status == 200
        told = await reply.json()
        assert reply.headers["x-request-id"]
    assert (told["name"], told["version"]) == ("enginery", __version__)
    assert {"models", "health", "dashboard"} <= set(told["links"])
    for link in told["links"].values():
        async with client.get(link) as reply:
            assert reply.status == 200, link
    async with client.head("/") as reply:
        assert reply.status == 200


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "slow"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_done_to_it(method: str, fast: bool) -> None:
    async with (
        serving(SMALL, fast=fast) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
        client.request(method, "/", json={"model": "small"}) as reply,
    ):
        assert reply.status == 405
        assert (await reply.json())["error"]["code"] == "method_not_allowed"


async def test_a_stranger_is_let_look_and_learns_neither_the_version_nor_a_model() -> None:
    async with (
        serving(SMALL, server=KEYS) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for key, known in [
            (None, False),
            ("wrong", False),
            ("key-of-all", True),
            ("key-of-small", True),
            ("key-of-admin", True),
        ]:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            async with client.get("/", headers=headers) as reply:
                assert reply.status == 200
                told = await reply.json()
            assert set(told) == {"name", "links"} | ({"version"} if known else set()), key
            assert "small" not in str(told)
            headers["Accept"] = BROWSERS
            async with client.get("/", headers=headers, allow_redirects=False) as reply:
                assert reply.status == 302


async def test_it_is_found_under_no_name_but_ours_and_by_no_page_of_others(client) -> None:
    for headers, code in [
        ({"Host": "evil.example"}, "forbidden_host"),
        ({"Origin": "https://evil.example"}, "forbidden_origin"),
    ]:
        async with client.get("/", headers=headers) as reply:
            assert reply.status == 403
            assert (await reply.json())["error"]["code"] == code
