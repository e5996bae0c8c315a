"""YAML to values with places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.settings.document import MAX_VALUES, TEXT_FIELDS, plain_value, read_document
from enginery.settings.schema import ModelSettings


def read(text, environ=None):
    return read_document(text, "f.yaml", environ)


def options(text, environ=None):
    """The options of a model, which are read as they are written."""
    layer = read("models:\n  m:\n    options:\n      o: " + text, environ)
    assert not layer.problems
    return layer.values["models"]["m"]["options"]["o"]


def problems(text, environ=None):
    return [
        (f"{p.place}" if p.place else "", ".".join(map(str, p.loc)), p.text)
        for p in read(text, environ).problems
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("0755", "0755"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("+1", "+1"),
        (".inf", ".inf"),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("-7", -7),
        ("1.50", 1.5),
        ("2e3", 2000.0),
        ("'8080'", "8080"),
        ('"true"', "true"),
        ("!!str 12", "12"),
    ],
)
def test_plain_scalars_are_those_of_json(written, value):
    found = options(written)
    assert found == value
    assert type(found) is type(value)


@given(st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_json_scalar_is_read_as_json(value):
    import json

    assert plain_value(json.dumps(value)) == value


def test_text_settings_keep_numbers_as_they_are_written():
    layer = read(
        "models: {m: {aliases: [3.10, on], args: [1.10, 0x1F, 12:30, true], env: {A: 1_0}}}"
    )
    model = layer.values["models"]["m"]
    assert model["aliases"] == ["3.10", "on"]
    assert model["args"] == ["1.10", "0x1F", "12:30", "true"]
    assert model["env"] == {"A": "1_0"}


def test_keys_are_text_as_they_are_written():
    assert list(read("models: {3.10: {}, 12:30: {}, no: {}}").values["models"]) == [
        "3.10",
        "12:30",
        "no",
    ]


def test_the_text_fields_are_fields():
    assert set(ModelSettings.model_fields) >= TEXT_FIELDS


def test_every_value_has_a_line_and_a_column():
    marks = read("models:\n  m:\n    args: [a, b]\n").marks
    assert str(marks["models", "m"].key) == "f.yaml:2:3"
    assert str(marks["models", "m", "args", 1].value) == "f.yaml:3:15"


def test_a_key_given_twice_is_named_with_both_lines():
    assert problems("models:\n  m: {}\n  m: {}\n") == [
        ("f.yaml:3:3", "models.m", "given twice, first in line 2")
    ]


def test_several_problems_are_found_at_once():
    found = problems("a: !!python/name:os.system x\nb: {c: 1, c: 2}\n? [1]\n: 2\n")
    assert [text for _, _, text in found] == [
        "tag 'tag:yaml.org,2002:python/name:os.system' is not known here",
        "given twice, first in line 2",
        "a key must be plain text",
    ]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("models: [", "f.yaml:1:10", "not YAML"),
        ("a:\n\tb: 1", "f.yaml:2:1", "indent with spaces"),
        ("models: {m: {options: {o: ${env.X}}}}", "f.yaml:1:", "put ${...} in quotes"),
        ("a: 1\n---\nb: 1", "f.yaml:2:1", "not YAML"),
        ("- a", "f.yaml:1:1", "needs keys such as `models:`"),
        ("just text", "f.yaml:1:1", "needs keys"),
        ("a: \x00", "f.yaml", "not YAML"),
        ("a: *b", "f.yaml:1:4", "undefined alias"),
        ("a: !!int x", "f.yaml:1:4", "not a number"),
        ("[" * 1000, "f.yaml", "nested too deep"),
        ("a: &a [*a]", "f.yaml:1:4", "refers to itself"),
        ("a: &a {<<: *a}", "f.yaml:1:8", "<< needs another mapping"),
        ("a: {<<: 3}", "f.yaml:1:5", "<< needs another mapping"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(text, place, words):
    [(where, _, what)] = problems(text)
    assert where.startswith(place)
    assert words in what


def test_an_empty_document_is_no_settings():
    assert read("").values == {}
    assert read("# nothing yet\n").problems == []


def test_a_merge_key_fills_in_what_is_not_there():
    layer = read("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2, <<: *a}\nc: {<<: [*b, *a], z: 3}\n")
    assert layer.values["b"] == {"y": 2, "z": 2, "x": 1}
    assert layer.values["c"] == {"z": 3, "y": 2, "x": 1}
    assert not layer.problems


@pytest.mark.parametrize(
    "inner",
    [
        "[{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]",
        "{{<<: [{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}]}}",
    ],
)
def test_aliases_cannot_grow_without_bound(inner):
    lines = ["a0: &a0 {x: 1}"] + [
        f"a{i}: &a{i} " + inner.format(f"*a{i - 1}") for i in range(1, 12)
    ]
    [(_, _, what)] = problems("\n".join(lines))
    assert f"more than {MAX_VALUES} values" in what


def test_environment_variables_are_filled_in_as_text():
    environ = {"DIR": "/models", "N": "8"}
    assert options('"${env.DIR}/a-${env.N}.gguf"', environ) == "/models/a-8.gguf"
    assert options("${env.N}", environ) == "8"
    assert options("$${env.N} ${HOME} ${env.}", environ) == "${env.N} ${HOME} ${env.}"


def test_what_is_filled_in_is_not_filled_in_again():
    assert options("${env.A}", {"A": "${env.B}", "B": "no"}) == "${env.B}"


def test_an_unset_variable_is_named_with_its_place():
    assert problems("a: x\nb: [1, '${env.NOPE}']", {}) == [
        ("f.yaml:2:8", "b.1", "environment variable NOPE is not set")
    ]


@given(st.text())
def test_no_text_makes_the_reader_raise(text):
    read_document(text, "f.yaml", {})
