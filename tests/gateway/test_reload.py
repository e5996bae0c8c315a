"""Settings read again while requests run: nobody is lost, only what is started otherwise starts anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from enginery import ConfigError, EngineManager
from enginery.engine.changes import Fate
from enginery.engine.events import EngineEvent
from enginery.gateway import Gateway
from enginery.settings import load_settings

STREAMS = 50
DEFAULTS = "{engine: mock, min_residency: 0, drain_timeout: 30, shutdown_timeout: 1}"
TWO = """
defaults: %s
budget: {ram: 1TiB}
models:
  kept: {parallel: 64, options: {seed: 1, ttft_ms: 5, itl_ms: 20, memory: {ram: 1}}}
  changed: {parallel: 64, options: {seed: %d, ttft_ms: 5, itl_ms: 20, memory: {ram: 1}}}
"""


class Site:
    """A gateway over a settings file that the test rewrites."""

    def __init__(self, file: Path, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.file, self.gateway, self.session = file, gateway, session
        self.manager = gateway.manager

    async def chat(self, model: str, tokens: int = 8, **headers: str) -> tuple[int, str]:
        """Status and text; the text of a stream that is complete."""
        body = {"model": model, "stream": True, "max_tokens": tokens, "messages": []}
        body["messages"] = [{"role": "user", "content": "hello"}]
        async with self.session.post("/v1/chat/completions", json=body, headers=headers) as answer:
            raw = await answer.text()
            return answer.status, raw

    async def get(self, path: str) -> Any:
        async with self.session.get(path) as answer:
            return answer.status, await answer.json()

    async def reload(self) -> Any:
        async with self.session.post("/api/config/reload") as answer:
            return answer.status, await answer.json()

    def pids(self) -> dict[str, int | None]:
        return {row.model: row.pid for row in self.manager.status()}


@pytest.fixture
def site(tmp_path) -> Callable[[str], Any]:
    @asynccontextmanager
    async def serve(text: str) -> AsyncIterator[Site]:
        file = tmp_path / "enginery.yaml"
        file.write_text(text)
        async with (
            EngineManager(load_settings(file)) as manager,
            Gateway(manager, port=0) as gateway,
            aiohttp.ClientSession(
                gateway.base_url, connector=aiohttp.TCPConnector(limit=0)
            ) as session,
        ):
            yield Site(file, gateway, session)

    return serve


def is_complete(reply: tuple[int, str]) -> bool:
    status, text = reply
    return status == 200 and text.endswith("data: [DONE]\n\n") and '"error"' not in text


async def test_fifty_streams_outlive_a_reload_that_restarts_one_of_their_engines(site, eventually):
    async with site(TWO % (DEFAULTS, 1)) as here:
        await asyncio.gather(here.chat("kept"), here.chat("changed"))
        before = here.pids()
        open_ones = [
            asyncio.create_task(here.chat(("kept", "changed")[i % 2], 60)) for i in range(STREAMS)
        ]
        # on a slow machine the first may be through before the last is under way
        await eventually(
            lambda: (
                sum(r.in_flight for r in here.manager.status()) + sum(t.done() for t in open_ones)
                == STREAMS
            ),
            30,
        )
        here.file.write_text(TWO % (DEFAULTS, 2))
        status, told = await here.reload()
        assert status == 200
        assert [(v["id"], v["fate"]) for v in told["variants"]] == [
            ("changed/default", "restarted")
        ]
        late = [asyncio.create_task(here.chat(name)) for name in ("changed", "kept", "changed")]
        replies = await asyncio.gather(*open_ones, *late)
        assert [reply for reply in replies if not is_complete(reply)] == []
        after = here.pids()
        assert after["kept"] == before["kept"]
        assert after["changed"] not in {None, before["changed"]}
        (row,) = [row for row in here.manager.status() if row.model == "changed"]
        assert (row.starts, row.restarts) == (2, 0)


async def test_an_engine_that_ran_is_started_again_without_a_request(site, eventually):
    async with site(TWO % (DEFAULTS, 1)) as here:
        await here.chat("changed")
        before = here.pids()["changed"]
        here.file.write_text(TWO % (DEFAULTS, 2))
        await here.reload()
        await eventually(
            lambda: [
                row
                for row in here.manager.status()
                if row.model == "changed" and row.state == "ready" and row.pid != before
            ],
            30,
        )
        assert "kept" not in here.pids()


async def test_names_limits_and_keys_change_while_the_engine_runs_on(site):
    one = "server: {%s}\ndefaults: {engine: mock, %s}\nmodels:\n  m: {options: {ttft_ms: 0, itl_ms: 0}, %s}\n"
    async with site(one % ("body_limit: 1MiB", "ttl: 15m", "aliases: [old]")) as here:
        assert is_complete(await here.chat("old"))
        pid = here.pids()["m"]
        here.file.write_text(
            one % ("api_keys: [sesame], body_limit: 10KiB", "ttl: 5m", "aliases: [new], stall: 9s")
        )
        status, told = await here.reload()
        assert status == 200
        assert told["variants"] == []
        paths = {change["path"] for change in told["settings"]}
        assert paths >= {"server.api_keys", "server.body_limit", "defaults.ttl", "models.m.aliases"}
        assert "sesame" not in json.dumps(told)
        assert (await here.chat("new"))[0] == 401
        key = {"Authorization": "Bearer sesame"}
        assert (await here.chat("old", **key))[0] == 404
        assert is_complete(await here.chat("new", **key))
        assert (await here.chat("m" * 20_000, **key))[0] == 413
        (row,) = here.manager.status()
        assert row.pid == pid
        assert row.ttl_left_s <= 300
        assert here.manager.catalog.resolve("m").limits.stall == 9


async def test_a_bad_file_changes_nothing_and_says_where(site, eventually):
    async with site(TWO % (DEFAULTS, 1)) as here:
        await here.chat("kept")
        before, settings = here.pids(), here.manager.settings
        told: list[EngineEvent] = []
        events = here.manager.inspection.subscribe("config.")

        async def listen() -> None:
            async for event in events:
                told.append(event)  # noqa: PERF401  # seen while they come

        listening = asyncio.create_task(listen())
        for wrong, place in [
            ("models:\n  kept: {paralel: 2}\n", ":2:10: models.kept.paralel: unknown key"),
            (
                "models:\n  kept: {engine: mock, options: {sed: 2}}\n",
                ":2:34: models.kept.options.sed",
            ),
            ("server: {host: 0.0.0.0}\nmodels: [\n", ":3:1: not YAML"),
        ]:
            here.file.write_text(wrong)
            status, reply = await here.reload()
            assert status == 400
            assert f"{here.file}{place}" in reply["error"]["message"]
            assert (await here.get("/api/config/plan"))[0] == 400
        here.file.unlink()
        assert (await here.reload())[0] == 400
        await eventually(lambda: len(told) == 4, 20)
        assert {event.type for event in told} == {"config.rejected"}
        assert "unknown key" in told[0].data["reason"]
        assert here.manager.settings is settings
        assert here.pids() == before
        assert is_complete(await here.chat("kept"))
        listening.cancel()


async def test_a_plan_shows_the_commands_and_changes_nothing(site):
    async with site(TWO % (DEFAULTS, 1)) as here:
        await here.chat("changed")
        before, settings = here.pids(), here.manager.settings
        here.file.write_text((TWO % (DEFAULTS, 2)).replace("kept:", "other:"))
        status, plan = await here.get("/api/config/plan")
        assert status == 200
        fates = {change["id"]: change["fate"] for change in plan["variants"]}
        assert fates == {
            "other/default": "added",
            "changed/default": "restarted",
            "kept/default": "removed",
        }
        (restarted,) = [change for change in plan["variants"] if change["fate"] == "restarted"]
        assert restarted["fields"] == ["options"]
        assert restarted["before"] != restarted["after"]
        assert "2" in restarted["after"]
        assert here.manager.settings is settings
        assert here.pids() == before


async def test_a_model_that_is_taken_out_drains_and_is_gone(site, eventually):
    async with site(TWO % (DEFAULTS, 1)) as here:
        await here.chat("changed")
        streaming = asyncio.create_task(here.chat("changed", 60))
        await eventually(lambda: any(row.in_flight for row in here.manager.status()), 20)
        text = TWO % (DEFAULTS, 1)
        here.file.write_text("\n".join(line for line in text.splitlines() if "changed" not in line))
        assert (await here.reload())[0] == 200
        assert (await here.chat("changed"))[0] == 404
        assert is_complete(await streaming)
        await eventually(lambda: here.manager.status() == [], 30)
        _, cards = await here.get("/v1/models")
        assert [card["id"] for card in cards["data"]] == ["kept"]
        here.file.write_text(text)
        await here.reload()
        assert is_complete(await here.chat("changed"))


async def test_who_waits_for_a_changed_engine_gets_the_new_one(site, eventually):
    text = "defaults: {engine: mock, min_residency: 0}\nmodels:\n  m: {options: {load_ms: %d}}\n"
    async with site(text % 600_000) as here:
        waiting = asyncio.create_task(here.chat("m"))
        await eventually(lambda: any(r.state == "starting" for r in here.manager.status()), 20)
        here.file.write_text(text % 0)
        assert (await here.reload())[0] == 200
        assert is_complete(await waiting)


async def test_the_address_waits_for_the_next_start_and_engines_for_nothing(site):
    async with site("defaults: {engine: mock}\nmodels: {m: {}}\n") as here:
        port = here.gateway.address[1]
        here.file.write_text("server: {port: 1}\ndefaults: {engine: mock}\nmodels: {m: {}}\n")
        _, told = await here.reload()
        assert told["later"] == ["server.port"]
        assert here.gateway.address[1] == port
        assert here.manager.settings.server.port == 8080


async def test_applying_is_one_call_for_python_applications_too(site):
    async with site(TWO % (DEFAULTS, 1)) as here:
        here.file.write_text(TWO % (DEFAULTS, 2))
        settings = load_settings(here.file)
        assert here.manager.plan(settings).of(Fate.RESTARTED) == {"changed/default"}
        assert here.manager.apply(settings).of(Fate.RESTARTED) == {"changed/default"}
        assert not here.manager.plan(settings)
        with pytest.raises(ConfigError):
            here.manager.apply(settings.model_copy(update={"models": load_broken(here.file)}))


def load_broken(file: Path) -> Any:
    file.write_text("models: {m: {engine: mock, options: {sed: 1}}}")
    return load_settings(file).models
