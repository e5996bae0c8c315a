"""The dashboard's files: what is served, with which headers, and that nothing in them makes markup of data."""

from __future__ import annotations

import re
import zipfile
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hatchling.builders.wheel import WheelBuilder
from yarl import URL

import enginery.gateway
from enginery.gateway.ui import CONTENT_SECURITY_POLICY
from support.gateways import serving

ROOT = Path(__file__).parents[2]
FOLDER = Path(enginery.gateway.__file__).parent / "ui"
FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
SMALL: dict[str, Any] = {"small": {"options": {"memory": 1}}}


def source(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.fixture
async def client():
    async with (
        serving(SMALL) as gateway,
        aiohttp.ClientSession(gateway.base_url) as session,
    ):
        yield session


# -- served -----------------------------------------------------------------------------------------


async def test_every_file_of_the_folder_is_served_with_its_type_and_the_policy(client) -> None:
    assert FILES
    for name in FILES:
        async with client.get(f"/ui/{name}") as reply:
            assert reply.status == 200, name
            assert await reply.read() == (FOLDER / name).read_bytes()
            assert reply.headers["Content-Type"] == f"{KINDS[Path(name).suffix]}; charset=utf-8"
            assert reply.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Referrer-Policy"] == "no-referrer"
            assert reply.headers["Server"] == "enginery"


async def test_the_address_without_a_slash_leads_to_the_page_also_behind_a_prefix(client) -> None:
    async with client.get("/ui", allow_redirects=False) as reply:
        assert (reply.status, reply.headers["Location"]) == (301, "ui/")
    async with client.get("/ui/") as reply:
        assert await reply.text() == source("index.html")


def test_the_policy_allows_nothing_but_the_pages_own_files() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split(";"))
    own, nothing = "'self'", "'none'"
    assert rules == {
        "default-src": nothing,
        "script-src": own,
        "style-src": own,
        "connect-src": own,
        "img-src": f"{own} data:",
        "frame-ancestors": nothing,
        "base-uri": nothing,
        "form-action": nothing,
    }


@pytest.mark.parametrize(
    "path",
    [
        "/ui/none.js",
        "/ui/..%2fui.py",
        "/ui/%2e%2e/ui.py",
        "/ui/%2fetc%2fpasswd",
        "/ui//etc/passwd",
        "/ui/index.html%00",
        "/ui/app.js/",
        "/ui/APP.JS",
        "/uis",
    ],
)
async def test_no_other_name_is_found_whatever_it_looks_like(client, path: str) -> None:
    async with client.get(URL(f"{client._base_url.origin()}{path}", encoded=True)) as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "endpoint_not_supported"


async def test_what_is_unchanged_is_not_sent_again_and_nothing_can_be_posted(client) -> None:
    async with client.get("/ui/app.js") as reply:
        tag = reply.headers["ETag"]
    async with client.get("/ui/app.js", headers={"If-None-Match": tag}) as reply:
        assert (reply.status, await reply.read()) == (304, b"")
    async with client.head("/ui/app.js") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
    for path in ("/ui", "/ui/", "/ui/app.js"):
        async with client.post(path, json={"model": "small"}) as reply:
            assert (await reply.json())["error"]["code"] == "method_not_allowed"


async def test_the_page_opens_without_a_key_and_what_it_asks_for_does_not() -> None:
    keys = {"api_keys": ["key-of-all"], "admin_keys": ["key-of-admin"]}
    async with (
        serving(SMALL, server=keys) as gateway,
        aiohttp.ClientSession(gateway.base_url) as client,
    ):
        for path, wanted in {"/ui/": 200, "/ui/app.js": 200, "/ui/x": 404, "/uix": 401}.items():
            async with client.get(path) as reply:
                assert reply.status == wanted, path
        for path in ("/api/engines", "/api/events", "/api/config", "/v1/models"):
            async with client.get(path) as reply:
                assert reply.status == 401, path
        async with client.get("/ui/", headers={"Host": "evil.example"}) as reply:
            assert reply.status == 403


def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    built = next(WheelBuilder(str(ROOT / "core")).build(directory=str(tmp_path)))
    names = set(zipfile.ZipFile(built).namelist())
    assert {f"enginery/gateway/ui/{name}" for name in FILES} <= names


# -- their text -------------------------------------------------------------------------------------

MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTML|createContextualFragment|DOMParser|document\.write"
    r"|srcdoc|\beval\b|\bFunction\(|setTimeout\(\s*[\"'`]|\bstyle\b\s*[:=]|\.on[a-z]+\s*=|[\"']on[a-z]+[\"']\s*:"
    r"|localStorage|document\.cookie|javascript:|import\("
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_or_code_of_data_or_keeps_the_key_for_longer(name: str) -> None:
    assert MARKUP.findall(source(name)) == []


def test_the_search_for_markup_finds_it() -> None:
    for bad in ("x.innerHTML = y", 'make("a", {"onclick": y})', "b.onclick = f", "eval(x)"):
        assert MARKUP.search(bad), bad


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", source(name)))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "only the name of SVG"
    assert "@import" not in source(name)
    assert "url(" not in source(name)


class Page(HTMLParser):
    """The elements of index.html."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.feed(source("index.html"))

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        if self.lasttag in {"script", "style"}:
            self.inside.append(data.strip())


def test_the_page_has_no_code_and_no_style_of_its_own() -> None:
    page = Page()
    assert not any(page.inside)
    for tag, attributes in page.found:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href"):
            link = attributes.get(name)
            if link is not None:
                assert link in FILES or link.startswith(("#", "data:image/svg+xml,"))


def test_whatever_a_script_looks_for_is_in_the_page_once() -> None:
    ids = [attributes["id"] for _, attributes in Page().found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"\bat\(\"([\w-]+)\"\)", source("app.js"))) <= set(ids)
    for _, attributes in Page().found:
        for name in ("aria-labelledby", "for"):
            assert set((attributes.get(name) or "").split()) <= set(ids)


def test_every_control_has_a_name() -> None:
    text = source("index.html")
    for tag in ("input", "select", "textarea"):
        controls = re.findall(rf"<{tag}\b", text)
        labelled = re.findall(rf"<label[^>]*>(?:(?!</label>).)*<{tag}\b", text, re.DOTALL)
        assert len(controls) == len(labelled), tag


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_imports_is_exported_and_used(name: str) -> None:
    text = source(name)
    for names, other in re.findall(r"import \{([^}]*)\} from \"\./([\w.]+)\";", text):
        exported = set(
            re.findall(r"export (?:async )?(?:function\*?|class|const) (\w+)", source(other))
        )
        wanted = {one.strip() for one in names.split(",") if one.strip()}
        assert wanted <= exported
        for one in wanted:
            assert len(re.findall(rf"\b{one}\b", text)) > 1, f"{one} is imported for nothing"


# -- colours ----------------------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{([^}]*)\}", source("style.css"))
    return {
        name: dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        for name, block in {"light": light, "dark": dark}.items()
    }


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_can_be_told_from_what_is_behind_them(scheme: str) -> None:
    colours = palettes()[scheme]
    for text, behind in product(("text", "dim", "bad", "link"), ("card", "page")):
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    assert contrast(colours["main"], colours["on-main"]) >= 4.5
    assert contrast(colours["text"], colours["track"]) >= 4.5
    bars = set(re.findall(r"fill: var\(--([\w-]+)\)", source("style.css")))
    assert len(bars) == 9
    for bar in bars:
        assert contrast(colours[bar], colours["track"]) >= 3, bar


def test_both_sets_of_colours_have_the_same_names_and_every_one_is_used() -> None:
    light, dark = palettes().values()
    assert set(light) == set(dark)
    assert set(light) == set(re.findall(r"var\(--([\w-]+)\)", source("style.css")))
