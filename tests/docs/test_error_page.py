"""docs/errors.md: whole, and what it says is what is sent."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from enginery import errors
from enginery.errors import EngineryError

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
PAGE = (ROOT / "docs/errors.md").read_text()
ROWS = ROW.findall(PAGE)
CLASSES = {
    cls.__name__: cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, EngineryError)
}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_has_its_code_its_status_when_and_what_to_do(name) -> None:
    rows = [row for row in ROWS if row[2] == name]
    assert rows
    for _, status, _, when, advice in rows:
        assert int(status) == CLASSES[name].status
        assert when.endswith(".")
        assert advice.endswith(".")
    assert CLASSES[name].code in [code for code, *_ in rows]


def test_every_code_stands_once() -> None:
    codes = [code for code, *_ in ROWS]
    assert len(set(codes)) == len(codes)
    assert {"forbidden_host", "forbidden_origin", "admin_required"} <= set(codes)


def test_settings_that_the_advice_names_exist() -> None:
    settings = (ROOT / "docs/settings.md").read_text()
    advice = " ".join(what for *_, what in ROWS)
    named = set(re.findall(r"`(?:server\.)?([a-z_]+)(?:: true)?`", advice))
    named -= {"param", "url"}
    assert {"max_queue", "body_limit", "allowed_hosts", "pin", "budget", "stall"} <= named
    for name in named:
        assert f"`{name}`" in settings or f"## server.{name}" in settings, name


def test_commands_that_the_advice_names_exist() -> None:
    commands = (ROOT / "docs/cli.md").read_text()
    for command in re.findall(r"`(enginery [a-z ]+)`", " ".join(what for *_, what in ROWS)):
        assert f"## {command}\n" in commands, command


def test_the_frame_of_a_broken_stream_is_one_event_of_json() -> None:
    event, data = re.findall(r"```\n(event: .+)\ndata: (.+)\n```", PAGE)[0]
    assert event == "event: error"
    frame = json.loads(data)
    assert frame["error"]["code"] == frame["code"] == "engine_crashed"
