"""What may be set, and how mistakes are told."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from enginery.errors import ConfigError
from enginery.settings import (
    Defaults,
    KeySettings,
    ModelSettings,
    PluginLists,
    ServerSettings,
    Settings,
    VariantSettings,
    load_settings,
    marks_of,
    validate_options,
)

EXAMPLE = """\
server: {host: 127.0.0.1, port: 8080, api_keys: [], admin_keys: [], allowed_hosts: [],
         allow_unauthenticated: false, body_limit: 64MiB}
defaults: {engine: llama.cpp, max_queue: 512, max_wait: 30s, queue_timeout: 10m,
           min_residency: 5s, drain_timeout: 60s, stop_timeout: 15s, shutdown_timeout: 30s,
           load_stall: 60s, load_cap: 30m, default_reply_tokens: 512, priority: 0}
plugins: {allow: [], deny: []}
models:
  qwen3-8b:
    aliases: [default]
    engine: llama.cpp
    variants:
      short: {context_length: 8192, options: {model: a.gguf}}
      long:  {context_length: 65536, parallel: 2, options: {model: a.gguf}}
  anything-else: {engine: openai, binary: my-server, args: [--port, "{port}"]}
"""


def load(tmp_path, text, environ=None):
    (tmp_path / "enginery.yaml").write_text(text)
    return load_settings(tmp_path / "enginery.yaml", environ=environ or {})


def told(tmp_path, text, environ=None):
    """The lines of the error, without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_the_example_writes_out_the_defaults(tmp_path):
    settings = load(tmp_path, EXAMPLE)
    assert settings.defaults == Defaults()
    assert settings.plugins == PluginLists()
    assert settings.server == ServerSettings()
    assert list(settings.models["qwen3-8b"].variant_settings()) == ["short", "long"]
    assert list(settings.models["anything-else"].variant_settings()) == ["default"]


def test_a_file_and_code_that_say_the_same_are_equal(tmp_path):
    settings = load(tmp_path, "models: {m: {engine: mock, load_cap: 1m, args: [--port, 80]}}")
    same = Settings(models={"m": {"engine": "mock", "load_cap": 60, "args": ["--port", 80]}})
    assert settings == same
    assert settings != Settings()


def test_an_unknown_key_has_a_place_and_a_suggestion(tmp_path):
    text = "models:\n  qwen:\n    variants:\n      short: {contxt_length: 8192}\n"
    assert told(tmp_path, text) == [
        (
            "enginery.yaml:4:15: models.qwen.variants.short.contxt_length: "
            "unknown key; did you mean context_length?"
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        "server: {workers: 4}",
        "defaults: {first_bite: 5m}",
        "models: {m: {body_limit: 1MiB}}",
        "models: {m: {variants: {v: {engine: mock}}}}",
    ],
)
def test_a_key_that_would_do_nothing_is_unknown(tmp_path, text):
    [line] = told(tmp_path, text)
    assert "unknown key" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "defaults: {max_wait: soon}",
            "1:22: defaults.max_wait: needs a duration such as 250ms, 30s or 1h30m, got 'soon'",
        ),
        ("defaults: {max_wait: -1}", "1:22: defaults.max_wait: must not be negative, got -1"),
        ("defaults: {load_cap: 0s}", "1:22: defaults.load_cap: must be more than 0, got '0s'"),
        ("defaults: {max_queue: 0}", "1:23: defaults.max_queue: must be at least 1, got 0"),
        ("defaults: {max_queue: true}", "1:23: defaults.max_queue: needs a whole number, got true"),
        ("defaults: {max_queue: 1.5}", "1:23: defaults.max_queue: needs a whole number, got 1.5"),
        ("defaults: 7", "1:11: defaults: needs a mapping of keys to values, got 7"),
        ("models: [m]", "1:9: models: needs a mapping of keys to values, got a list"),
        ("plugins: {allow: some}", "1:18: plugins.allow: needs a list, got 'some'"),
        (
            "models: {m: {features: [chat, song]}}",
            "1:31: models.m.features[1]: must be 'chat', 'completions', 'embeddings', 'rerank', 'tools', 'images', 'audio' or 'json_schema', got 'song'",
        ),
        (
            "models: {m: {url: 10.0.0.5:8000}}",
            "1:19: models.m.url: needs an address of the form http://127.0.0.1:8081, got '10.0.0.5:8000'",
        ),
        ("models: {m: {args: [a, [b]]}}", "1:24: models.m.args[1]: needs text, got a list"),
        ("models: {m: {args: [a, null]}}", "1:24: models.m.args[1]: needs text, got nothing"),
        ("models: {m: {binary: ''}}", "1:22: models.m.binary: must not be empty"),
        ("models: {m: {variants: {}}}", "1:24: models.m.variants: must not be empty"),
        (
            "models: {m: {variants: {a/b: {}}}}",
            "1:25: models.m.variants.a/b: a variant's name starts with a letter or digit and holds letters, digits and _.+-, at most 64",
        ),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(tmp_path, text, line):
    assert told(tmp_path, text) == [f"enginery.yaml:{line}"]


def test_inline_fields_and_variants_do_not_mix(tmp_path):
    text = "models:\n  m:\n    parallel: 2\n    options: {a: 1}\n    variants: {v: {}}\n"
    assert told(tmp_path, text) == [
        "enginery.yaml:3:15: models.m.parallel: stands beside `variants`; move it into each of them",
        "enginery.yaml:4:14: models.m.options: stands beside `variants`; move it into each of them",
    ]


def test_an_alias_is_one_models_and_no_models_name(tmp_path):
    text = "models:\n  a: {aliases: [b, x, a]}\n  b: {aliases: [x, y, y]}\n"
    assert told(tmp_path, text) == [
        "enginery.yaml:2:17: models.a.aliases[0]: 'b' is already the name of model b",
        "enginery.yaml:2:23: models.a.aliases[2]: 'a' is already the name of model a",
        "enginery.yaml:3:17: models.b.aliases[0]: 'x' is already an alias of model a",
        "enginery.yaml:3:23: models.b.aliases[2]: 'y' is already an alias of model b",
    ]


def test_a_key_with_nothing_behind_it_is_not_given(tmp_path):
    text = (
        "defaults:\nplugins: {allow: }\nmodels:\n  m:\n  n: {variants: , options: , env: , url: }\n"
    )
    settings = load(tmp_path, text)
    assert settings.models["m"] == settings.models["n"] == ModelSettings()
    assert settings.defaults == Defaults()


def test_an_unknown_key_with_nothing_behind_it_is_still_unknown(tmp_path):
    assert "did you mean models?" in told(tmp_path, "modles:\n")[0]


def test_all_problems_come_at_once_and_in_the_order_of_the_file(tmp_path):
    text = "models:\n  b: {parallel: 0, parallel: 1}\n  a: {options: '${env.NO}', x: 1}\ndefaults: {engin: x}\n"
    assert [line.split(": ")[0] for line in told(tmp_path, text)] == [
        "enginery.yaml:2:17",
        "enginery.yaml:2:20",
        "enginery.yaml:3:16",
        "enginery.yaml:3:29",
        "enginery.yaml:4:12",
    ]


def test_a_secret_is_never_shown(tmp_path):
    text = "models: {m: {parallel: '${env.S}', env: {API: [sesame]}, binary: b}}"
    lines = told(tmp_path, text, {"S": "sesame"})
    assert "sesame" not in "".join(lines)
    assert "got '${env.S}'" in lines[0]


def test_code_gets_the_same_errors_without_places():
    with pytest.raises(ConfigError) as caught:
        Settings(models={"m": {"paralel": 2}}, default={})
    assert str(caught.value).splitlines() == [
        "default: unknown key; did you mean defaults?",
        "models.m.paralel: unknown key; did you mean parallel?",
    ]
    assert caught.value.param == "default"


def test_capitals_are_no_excuse(tmp_path):
    assert "did you mean models?" in told(tmp_path, "MODELS: {}\n")[0]


def test_an_object_of_the_wrong_kind_is_named_and_not_shown():
    with pytest.raises(ConfigError, match="got a VariantSettings"):
        Settings(models={"m": VariantSettings(env={"TOKEN": "sesame"})})


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().defaults.priority = 3


@pytest.mark.parametrize(
    "model",
    [
        Settings,
        Defaults,
        KeySettings,
        ModelSettings,
        PluginLists,
        ServerSettings,
        VariantSettings,
    ],
)
def test_every_field_is_described(model):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    gpu_layers: int | str = Field(0, union_mode="left_to_right")
    threads: int | bool | None = None


class Loose(BaseModel):
    seed: int = 0


def option_problems(model, options):
    found, problems = validate_options(model, options, ("o",), marks_of(options, at=("o",)))
    return found, sorted(f"{'.'.join(map(str, p.loc))}: {p.text}" for p in problems)


def test_options_become_the_plugins_model():
    assert option_problems(Strict, {"model": "a"}) == (Strict(model="a"), [])
    assert option_problems(Strict, Strict(model="a")) == (Strict(model="a"), [])
    assert option_problems(None, {"any": "thing"}) == ({"any": "thing"}, [])


def test_options_that_are_missing_wrong_or_unknown_are_told():
    _, lines = option_problems(Strict, {"gpu_layer": 1, "threads": "x", "gpu_layers": [1]})
    assert lines == [
        "o.gpu_layer: unknown option; did you mean gpu_layers?",
        "o.gpu_layers: needs a whole number, or needs text, got a list",
        "o.model: is missing",
        "o.threads: needs a whole number, or needs true or false, got 'x'",
    ]


def test_an_option_that_would_be_dropped_in_silence_is_told():
    assert option_problems(Loose, {"sed": 1, "x": "y"})[1] == [
        "o.sed: unknown option; did you mean seed?",
        "o.x: unknown option; options here: seed",
    ]


def test_options_are_a_mapping():
    assert option_problems(Strict, [1])[1] == ["o: needs a mapping of keys to values"]
