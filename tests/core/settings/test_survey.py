"""One look finds all: whatever else is wrong, a mistake is told, and nothing that follows from another one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.engine.catalog import Catalog
from enginery.errors import ConfigError
from enginery.plugins import PluginRegistry
from enginery.settings import config_error, load_settings
from enginery.settings.survey import survey

REGISTRY = PluginRegistry()
LINES: list[tuple[str, str, list[str]]] = [  # right, wrong, and what is said of it
    ("defaults: {engine: mock}", "defaults: {engine: mock, ttll: 3}", ["defaults.ttll"]),
    ("server: {port: 1}", "server: {port: many, hots: x}", ["server.hots", "server.port"]),
    ("models:", "models:", []),
    ("  a: {engine: mock}", "  a: {engine: mock, parallel: many}", ["models.a.parallel"]),
    ("  b: {}", "  b: {options: {sed: 1}}", ["models.b.options.sed"]),
    (
        "  c: {engine: mock, options: {seed: 1}}",
        "  c: {engine: mock, parallel: 0, options: {seed: x, sed: 1}}",
        ["models.c.options.sed", "models.c.options.seed", "models.c.parallel"],
    ),
    ("  d: {aliases: [dd]}", "  d: {aliases: [a]}", ["models.d.aliases[0]"]),
    (
        "  e: {variants: {x: {}, y: {}}}",
        "  e: {context_length: 5, variants: {x: {options: {sed: 1}}, y: {parallel: 0}}}",
        [
            "models.e.context_length",
            "models.e.variants.x.options.sed",
            "models.e.variants.y.parallel",
        ],
    ),
    ("  f: {engine: mock}", "  f: {engine: none-such}", ["models.f.engine"]),
    ("  g: {engine: openai, binary: x}", "  g: {engine: openai}", ["models.g"]),
    # what follows from these is not told: whose options, and which program, nobody knows
    (
        "  h: {engine: mock}",
        "  h: {engin: llama.cpp, options: {gpu_layers: 1}}",
        ["models.h.engin"],
    ),
    ("  i: {engine: openai, binary: x}", "  i: {engine: openai, binry: x}", ["models.i.binry"]),
    ("  j: {variants: {x: {}}}", "  j: {variants: 5, options: {sed: 1}}", ["models.j.variants"]),
    ("  k: {engine: mock}", "  k: {engine: mock, options: 5}", ["models.k.options"]),
    ("  o: {variants: {x: {}}}", "  o: {variants: {x: 5}}", ["models.o.variants.x"]),
    (
        "  l: {engine: mock, url: 'http://127.0.0.1:9'}",
        "  l: {engine: mock, url: nonsense, args: [x]}",
        ["models.l.url"],
    ),
    (
        "  m: {engine: mock, options: {seed: 1}}",
        "  m: {engine: mock, options: {seed: '${env.NO_SUCH_VARIABLE}', ttft_ms: x}}",
        ["models.m.options.seed", "models.m.options.ttft_ms"],
    ),
    ("  n: {engine: mock}", "  n: {engine: mock, engine: mock}", ["models.n.engine"]),
]


def told(file: Path) -> list[str]:
    """The paths of all that one look finds, as `enginery config check` goes about it."""
    found = survey(file, {})
    problems = list(found.problems)
    if found.settings is not None and found.knows_plugins:
        problems += filter(found.is_certain, Catalog(found.settings, REGISTRY).problems())
    lines = config_error(problems, found.marks).message.splitlines()
    return sorted(line.split(": ")[1] for line in lines)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("survey") / "enginery.yaml"


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(range(len(LINES)))))
def test_each_mistake_is_told_whatever_else_is_wrong_and_nothing_that_is_none(file, wrong) -> None:
    file.write_text(
        "\n".join(bad if i in wrong else good for i, (good, bad, _) in enumerate(LINES))
    )
    assert told(file) == sorted(path for i in wrong for path in LINES[i][2])


def test_all_of_them_at_once_are_told_at_once(file) -> None:
    file.write_text("\n".join(bad for _, bad, _ in LINES))
    assert told(file) == sorted(path for _, _, paths in LINES for path in paths)


def test_what_is_no_yaml_is_one_mistake(file) -> None:
    file.write_text("models:\n\tm: {}\n")
    found = survey(file, {})
    assert found.settings is None
    assert [problem.text.partition(":")[0] for problem in found.problems] == ["not YAML"]


def test_no_plugin_is_asked_while_nobody_knows_which_may_be(file) -> None:
    file.write_text("plugins: {allow: {enginery-mock: 1}}\nmodels: {m: {engine: mock}}\n")
    found = survey(file, {})
    assert found.settings is not None
    assert not found.knows_plugins


def test_right_settings_are_what_reading_gives(file) -> None:
    file.write_text("\n".join(good for good, _, _ in LINES))
    found = survey(file, {})
    assert found.settings == load_settings(file, environ={})
    assert (found.problems, found.aside) == ((), frozenset())


def test_a_file_that_is_not_there_is_told_as_ever(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        survey(tmp_path / "none.yaml", {})
