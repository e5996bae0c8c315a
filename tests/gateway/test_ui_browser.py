"""The dashboard in a real Chromium: load, chat, watch the swap, unload; keys, the keyboard, and words that are no markup."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import ConsoleMessage, Page, Route, async_playwright, expect

from support.gateways import serving
from support.hostile_engine import PAYLOADS

pytestmark = pytest.mark.heavy

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000
BOTH: dict[str, Any] = {
    "small": {
        "context_length": 4096,
        "aliases": ["tiny"],
        "options": {"load_ms": 300, "itl_ms": 5, "memory": 2**30},
    },
    "vendor/large": {"options": {"load_ms": 300, "itl_ms": 5, "memory": 2**31}},
}
THINNEST = 0.3
"""Per cent of the timeline's width that any bar has at least."""

ENDS = """(rows) => {
  const bar = (row, state) => rows.querySelectorAll("svg")[row].querySelector(`rect.${state}`);
  const at = (rect, name) => parseFloat(rect.getAttribute(name));
  const stopping = bar(0, "stopping");
  return [at(stopping, "x") + at(stopping, "width"), at(bar(1, "ready"), "x")];
}"""
"""Where the first engine's end and the second one's service lie, of one drawing."""

ENGINE = Path(__file__).parents[1] / "support" / "hostile_engine.py"
HOSTILE: dict[str, Any] = {
    "hostile": {"engine": "openai", "binary": sys.executable, "args": [str(ENGINE), "{port}"]},
    "dying": {
        "engine": "openai",
        "binary": sys.executable,
        "args": [str(ENGINE), "{port}", "dies"],
    },
}


@pytest.fixture
async def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("NOT RUN: no chromium")
    async with async_playwright() as playwright:
        # its sandbox wants a user other than root, and namespaces that containers may lack
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser):
    """A page that must not complain: an error of a script, or a breach of the policy, fails the test."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("console", lambda told: complaints.append(told.text) if complains(told) else None)
    yield page
    await context.close()
    assert complaints == []


def complains(told: ConsoleMessage) -> bool:
    """A breach of the policy, an exception; not what the browser says of each 401, or of a gateway that has stopped."""
    return told.type == "error" and not told.text.startswith("Failed to load resource")


async def open_at(page: Page, url: str) -> None:
    await page.goto(f"{url}/ui")
    await expect(page.locator("#connection")).to_have_text("connected")


def card(page: Page, name: str):
    return page.locator("li.model").filter(has=page.get_by_role("heading", name=name, exact=True))


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name, exact=True).click()


async def chat(page: Page, model: str, text: str) -> str:
    await page.locator("#chat-model").select_option(model)
    await page.get_by_label("Message").fill(text)
    await press(page, "Send")
    await expect(page.locator("#chat-talk")).to_have_attribute("aria-busy", "false")
    reply = page.locator("#chat-talk li").last
    await expect(reply).to_have_class("reply")
    return await reply.locator("p").inner_text()


# -- what operators do ------------------------------------------------------------------------------


async def test_a_model_is_loaded_asked_swapped_for_another_and_unloaded(page) -> None:
    async with serving(BOTH) as gateway:
        await open_at(page, gateway.base_url)
        small, large = card(page, "small"), card(page, "vendor/large")
        await expect(small.locator(".state")).to_have_text("unloaded")
        await expect(small).to_contain_text("4,096 tokens of context · also tiny")

        await press(page, "Load small")
        await expect(small.locator(".state")).to_have_text("loaded")
        await expect(small).to_contain_text("default (mock): ready")
        assert (await chat(page, "small", "Hello")).strip()
        await expect(page.locator("#chat-cost")).to_contain_text("tokens/s")
        row = page.locator("#request-rows tr").first
        _, state, ttft, rate, tokens, *_ = [row.locator("td").nth(i) for i in range(7)]
        await expect(tokens).to_have_text(re.compile(r"^[1-9]\d*$"))  # a load has none
        await expect(state).to_have_text("ok")
        await expect(ttft).to_have_text(re.compile(r"^[\d.]+ m?s$"))
        await expect(rate).to_have_text(re.compile(r"^[\d.]+$"))

        assert (await chat(page, "vendor/large", "And you?")).strip()
        await expect(large.locator(".state")).to_have_text("loaded")
        await expect(small.locator(".state")).to_have_text("unloaded")
        swap = page.locator("#swap-list li").first
        await expect(swap).to_contain_text("small/default → vendor/large/default")
        labels = page.locator("#timeline-rows .label")
        await expect(labels).to_have_text(["small/default", "vendor/large/default"])
        bars = page.locator("#timeline-rows svg")
        first, second = bars.nth(0), bars.nth(1)
        for state in ("starting", "ready", "stopping"):
            await expect(first.locator(f"rect.{state}")).to_have_count(1)
        for state in ("starting", "ready"):
            await expect(second.locator(f"rect.{state}")).to_have_count(1)
        stopped, ready = await page.locator("#timeline-rows").evaluate(ENDS)
        assert stopped <= ready + THINNEST, "one engine at a time"
        await expect(page.locator("#device-list")).to_contain_text("vendor/large/default: 2.0 GiB")

        await press(page, "Unload vendor/large")
        await expect(large.locator(".state")).to_have_text("unloaded")
        assert [row.state for row in gateway.manager.status()] == ["stopped", "stopped"]


async def test_logs_are_followed_and_sifted(page) -> None:
    async with serving(BOTH) as gateway:
        await open_at(page, gateway.base_url)
        logs = page.get_by_role("log")
        await page.locator("#log-model").select_option("vendor/large")
        await press(page, "Load vendor/large")
        await expect(logs).to_contain_text("ready: model 'vendor/large'")
        await expect(logs).to_contain_text("100 %")
        await page.get_by_label("Filter").fill("READY: ")
        await expect(logs.locator("div:visible")).to_have_count(1)
        await expect(page.locator("#log-count")).to_contain_text("1 of ")
        await page.get_by_label("Filter").fill("")
        assert await logs.locator("div:visible").count() > 5


async def test_a_reply_can_be_stopped(page) -> None:
    slow = {"slow": {"options": {"itl_ms": 200, "ttft_ms": 1}}}
    async with serving(slow) as gateway:
        await open_at(page, gateway.base_url)
        await page.get_by_label("Message").fill("A long story")
        await page.keyboard.press("Enter")
        reply = page.locator("#chat-talk li.reply p")
        await expect(reply).not_to_be_empty()
        await press(page, "Stop")
        await expect(reply).to_contain_text("(stopped)")
        await expect(page.locator("#request-rows tr").first).to_contain_text("client gone")


async def test_a_request_shows_its_first_token_and_its_pace_while_it_runs(page) -> None:
    slow = {"slow": {"options": {"itl_ms": 100, "ttft_ms": 1}}}
    async with serving(slow) as gateway:
        await open_at(page, gateway.base_url)
        await page.get_by_label("At most").fill("30000")
        await page.get_by_label("Message").fill("A long story")
        await press(page, "Send")
        late = await page.context.new_page()
        await open_at(late, gateway.base_url)  # it sees what had begun before
        for one in (page, late):
            cells = one.locator("#request-rows tr").first.locator("td")
            await expect(cells).to_have_text(
                [
                    "slow/default",
                    "running",
                    re.compile(r"^[\d.]+ m?s$"),
                    re.compile(r"^[\d.]+ chunks/s$"),
                    "–",
                    re.compile(r"^[\d.]+ m?s$"),
                    re.compile(r"^[\d.]+ m?s$"),
                ],
                timeout=PATIENCE_MS,
            )
            await expect(one.locator("#request-rows tr")).to_have_count(1)
        ttft = await cells.nth(2).inner_text()
        await press(page, "Stop")
        await expect(cells.nth(1)).to_have_text("client gone")
        await expect(cells.nth(2)).to_have_text(ttft)
        await expect(cells.nth(3)).not_to_contain_text("chunks")
        await late.close()


async def test_a_connection_that_is_lost_is_made_again(page) -> None:
    async with serving(BOTH) as gateway:
        refused = 0

        async def refuse_twice(route: Route) -> None:
            nonlocal refused
            refused += 1
            await (route.abort() if refused <= 2 else route.continue_())

        await page.route("**/api/events", refuse_twice)
        await open_at(page, gateway.base_url)
        assert refused == 3
        await page.unroute_all(behavior="ignoreErrors")


# -- who may see it ---------------------------------------------------------------------------------


async def test_the_page_asks_for_a_key_keeps_it_in_its_tab_and_forgets_it(page) -> None:
    keys = {"api_keys": ["key-of-all"], "admin_keys": ["key-of-admin"]}
    async with serving(BOTH, server=keys) as gateway:
        await page.goto(f"{gateway.base_url}/ui")
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("a key is needed")
        for wrong, told in {"wrong": "none of our keys", "key-of-all": "admin_keys"}.items():
            await dialog.get_by_label("Key of an admin").fill(wrong)
            await page.keyboard.press("Enter")
            await expect(dialog).to_contain_text(told)
        await dialog.get_by_label("Key of an admin").fill("key-of-admin")
        await press(page, "Use this key")
        await expect(page.locator("#connection")).to_have_text("connected")
        await press(page, "Load small")
        await expect(card(page, "small").locator(".state")).to_have_text("loaded")
        assert (await chat(page, "small", "Hello")).strip()
        await expect(page.get_by_role("log")).to_contain_text("ready: model 'small'")

        kept = await page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
        assert "key-of-admin" not in " ".join([*kept, await page.content()])
        await page.reload()
        await expect(page.locator("#connection")).to_have_text("connected")
        other = await page.context.new_page()
        await other.goto(f"{gateway.base_url}/ui")
        await expect(other.get_by_role("dialog")).to_be_visible()
        await press(page, "Forget key")
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0


# -- hostile words ----------------------------------------------------------------------------------


async def test_names_log_lines_errors_and_replies_are_text_whatever_is_in_them(page) -> None:
    async def misname(route: Route) -> None:
        reply = await route.fetch()
        told = await reply.json()
        for number, text in enumerate(PAYLOADS):  # no configuration allows such a name
            told["data"].append(
                {
                    "id": f"{number}{text}",
                    "object": "model",
                    "state": text,
                    "aliases": [text],
                    "error": text,
                }
            )
        await route.fulfill(response=reply, body=json.dumps(told))

    async with serving(HOSTILE) as gateway:
        await page.route("**/v1/models", misname)
        await open_at(page, gateway.base_url)
        await expect(page.locator("li.model")).to_have_count(2 + len(PAYLOADS))
        reply = await chat(page, "hostile", PAYLOADS[0])
        assert PAYLOADS[1] in reply
        await press(page, "Load dying")
        await expect(card(page, "dying").locator(".error").last).to_contain_text(PAYLOADS[1])
        for model in ("hostile", "dying"):
            await page.locator("#log-model").select_option(model)
            for text in PAYLOADS[:-1]:
                await expect(page.get_by_role("log")).to_contain_text(text)
        for text in PAYLOADS[:-1]:
            await expect(page.locator("#model-list")).to_contain_text(text)
        link = page.get_by_role("log").get_by_text("press me").first
        await link.click()
        await page.locator("#log-filter").fill(PAYLOADS[1])
        await expect(page.locator("#log-lines div:visible").first).to_have_text(PAYLOADS[1])
        made = page.locator(
            "body img, body script, body iframe, body a:not(.skip), body svg[onload]"
        )
        await expect(made).to_have_count(0)
        assert await page.evaluate("typeof window.pwned") == "undefined"
        assert await page.title() == "Enginery"
        await page.unroute_all(behavior="ignoreErrors")  # before there is nobody to fetch from


# -- hands and eyes ---------------------------------------------------------------------------------


async def test_everything_can_be_done_with_the_keyboard(page) -> None:
    async with serving(BOTH) as gateway:
        await open_at(page, gateway.base_url)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the models")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("#models")).to_be_focused()
        await page.keyboard.press("Tab")
        load = page.get_by_role("button", name="Load small", exact=True)
        await expect(load).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(card(page, "small").locator(".state")).to_have_text("loaded")
        await expect(load).to_be_focused()  # the list was drawn again, and nobody lost the place
        reached = []
        for _ in range(30):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.id"))
            if reached[-1] == "chat-text":
                break
        assert {"timeline-span", "chat-model", "chat-limit", "chat-text"} <= set(reached)
        await page.keyboard.type("Hello")
        await page.keyboard.press("Enter")
        await expect(page.locator("#chat-cost")).to_contain_text("tokens/s")
        await expect(page.locator("#chat-text")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_the_page_fits_and_heeds_the_colours_that_are_wanted(page, scheme, width) -> None:
    async with serving(BOTH) as gateway:
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": width, "height": 800})
        await open_at(page, gateway.base_url)
        await press(page, "Load vendor/large")
        await expect(card(page, "vendor/large").locator(".state")).to_have_text("loaded")
        await chat(page, "small", "Words " * 30 + "x" * 300)
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 22, 28)"}[scheme]
        narrow = page.locator("button:visible, select:visible, textarea:visible")
        for box in [await one.bounding_box() for one in await narrow.all()]:
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 24
