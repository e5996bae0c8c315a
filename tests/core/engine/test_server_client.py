"""`ServerClient`: where it talks to, and the limit that replies get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enginery import Command, EngineHooks, ServerClient, TokenEstimate, Variant, hookimpl
from enginery.engine.routing import BUDGETS

VARIANT = Variant("m", engine_type="fake", url="http://127.0.0.1:8081", api_key="sesame")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Plugin:
    @hookimpl
    def build_command(self) -> Command:
        return Command(["fake"])

    @hookimpl
    def estimate_tokens(self) -> TokenEstimate:
        return TokenEstimate(7, 7)


HOOKS = EngineHooks(Plugin(), "fake")


async def test_it_talks_to_the_variants_url_with_its_key() -> None:
    async with ServerClient(HOOKS, VARIANT) as client:
        assert client.base_url == "http://127.0.0.1:8081"
        assert client.endpoint.api_key == "sesame"


@pytest.mark.parametrize("url", [None, "", "127.0.0.1", "ftp://127.0.0.1"])
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(ValueError, match="is no address of a server"):
        ServerClient(HOOKS, replace(VARIANT, url=url))


@pytest.mark.parametrize("body", [CHAT, {"prompt": "hi"}])
async def test_a_reply_without_a_limit_gets_one(body) -> None:
    async with ServerClient(HOOKS, VARIANT, max_tokens=9) as client:
        assert client.transform_request(body) == {**body, "model": "m", "max_tokens": 9}
        assert client.transform_request({**body, "max_tokens": None})["max_tokens"] == 9
        for field in BUDGETS:
            limited = {**body, field: 3}
            assert client.transform_request(limited) == {**limited, "model": "m"}


async def test_vectors_get_none_and_without_a_limit_nothing_does() -> None:
    async with ServerClient(HOOKS, VARIANT, max_tokens=9) as client:
        assert "max_tokens" not in client.transform_request({"input": "hi"})
    async with ServerClient(HOOKS, VARIANT) as client:
        assert client.transform_request(CHAT) == {**CHAT, "model": "m"}


@pytest.mark.parametrize(("max_tokens", "counted"), [(9, 16), (None, 519)])
async def test_the_limit_is_what_a_reply_is_counted_with(max_tokens, counted) -> None:
    async with ServerClient(HOOKS, VARIANT, max_tokens=max_tokens) as client:
        assert await client.estimate_tokens(CHAT) == counted
        assert await client.estimate_tokens({**CHAT, "max_tokens": 1}) == 8
