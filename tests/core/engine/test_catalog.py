"""The models there are."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from enginery.engine.catalog import Catalog
from enginery.errors import ConfigError, ModelNotFound, PluginError
from enginery.hookspecs import hookimpl
from enginery.plugins import EngineHooks, PluginRegistry
from enginery.plugins.openai import plugin as openai_plugin
from enginery.settings import Settings, check_model_name, load_settings
from enginery.values import Command, Variant


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str = "none"
    gpu_layers: int = 0


class TypedPlugin:
    @hookimpl
    def build_command(self, variant, endpoint):
        return Command(["typed"])

    @hookimpl
    def variant_options(self):
        return Options

    @hookimpl
    def variant_from_path(self, path):
        return {"options": {"model": path}} if path.endswith(".gguf") else None


class PlainPlugin:
    @hookimpl
    def build_command(self, variant, endpoint):
        return Command(["plain"])


class Plugins:
    """Stands for an installation with three usable plugins and a broken one."""

    def __init__(self, **plugins) -> None:
        self.loaded = []
        self._plugins = {"typed": TypedPlugin(), "plain": PlainPlugin(), "openai": openai_plugin}
        self._plugins.update(plugins)

    def engine_types(self):
        return sorted([*self._plugins, "broken"])

    def hooks(self, engine_type):
        self.loaded.append(engine_type)
        if engine_type == "broken":
            raise PluginError("engine 'broken' is broken: ImportError: nope")
        if engine_type not in self._plugins:
            raise PluginError(f"no plugin for engine {engine_type!r}")
        plugin = self._plugins[engine_type]
        return EngineHooks(
            plugin, engine_type, f"test-{engine_type}", command_required=engine_type != "openai"
        )


def catalog(models=None, plugins=None, engine="typed", **defaults):
    settings = Settings(models=models or {}, defaults={"engine": engine, **defaults})
    return Catalog(settings, cast("PluginRegistry", plugins or Plugins()))


def from_file(tmp_path, text):
    (tmp_path / "enginery.yaml").write_text(text)
    settings = load_settings(tmp_path / "enginery.yaml", environ={})
    return Catalog(settings, cast("PluginRegistry", Plugins()))


def lines(error, tmp_path):
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


# -- models of the settings -------------------------------------------------------------------


def test_a_model_is_found_by_name_and_by_alias():
    models = catalog({"qwen": {"aliases": ["default", "q"]}})
    assert models.resolve("qwen") is models.resolve("q")
    assert models.resolve("default").name == "qwen"
    assert models.resolve("default").aliases == ("default", "q")


def test_variants_ascend_by_context_length_and_unknown_ones_come_last():
    variants = {"a": {}, "b": {"context_length": 9000}, "c": {"context_length": 100}, "d": {}}
    entry = catalog({"m": {"variants": variants}}).resolve("m")
    assert [variant.name for variant in entry.variants] == ["c", "b", "a", "d"]


def test_a_variant_is_found_by_name():
    entry = catalog({"m": {"variants": {"a": {}, "b": {}}}}).resolve("m")
    assert entry.variant("b").id == "m/b"
    with pytest.raises(ConfigError, match="m has no variant 'c'; it has a, b"):
        entry.variant("c")


def test_a_variant_holds_all_that_the_settings_say():
    given = {
        "engine": "plain",
        "context_length": 8192,
        "parallel": 2,
        "options": {"any": [1]},
        "binary": "b",
        "args": ["--port", "{port}"],
        "env": {"A": "1"},
        "work_dir": "/tmp",
        "url": "http://127.0.0.1:1/",
        "features": ["chat"],
    }
    [variant] = catalog({"m": given}).resolve("m").variants
    assert variant == Variant(
        "m", "default", "plain", 8192, 2, {"any": [1]}, "b", ("--port", "{port}"),
        {"A": "1"}, "/tmp", "http://127.0.0.1:1", frozenset({"chat"}),
    )  # fmt: skip


def test_options_are_an_instance_of_the_plugins_model():
    [variant] = catalog({"m": {"options": {"gpu_layers": 3}}}).resolve("m").variants
    assert variant.options == Options(gpu_layers=3)


def test_limits_are_the_models_own_or_the_defaults():
    limits = catalog({"m": {"load_cap": "1h", "priority": 0}}).resolve("m").limits
    assert (limits.load_cap, limits.load_stall, limits.priority) == (3600, 60, 0)


def test_a_plugin_is_loaded_only_when_a_model_needs_it():
    plugins = Plugins()
    models = catalog({"a": {}, "b": {"engine": "broken"}}, plugins)
    assert plugins.loaded == []
    models.resolve("a")
    models.resolve("a")
    assert plugins.loaded == ["typed"]


def test_an_unknown_model_says_which_are_near_and_which_there_are():
    models = catalog({"qwen3-8b": {}, "llama": {"aliases": ["default"]}})
    with pytest.raises(ModelNotFound) as caught:
        models.resolve("qwen3-8")
    assert str(caught.value) == "no model 'qwen3-8'; did you mean qwen3-8b? models: qwen3-8b, llama"
    assert caught.value.param == "model"
    with pytest.raises(ModelNotFound, match="did you mean default"):
        models.resolve("defaul")


def test_many_models_are_not_listed():
    models = catalog({f"model-{i}": {} for i in range(20)})
    with pytest.raises(ModelNotFound) as caught:
        models.resolve("x")
    assert str(caught.value) == "no model 'x'; 20 models are configured"


def test_without_models_the_error_says_so():
    with pytest.raises(ModelNotFound, match="no models are configured"):
        catalog().resolve("x")


# -- mistakes in settings ---------------------------------------------------------------------


def test_a_wrong_option_has_a_place_and_a_suggestion(tmp_path):
    text = (
        "models:\n  q:\n    engine: typed\n    variants:\n      short: {options: {gpu_layer: 9}}\n"
    )
    models = from_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        models.resolve("q")
    assert lines(caught, tmp_path) == [
        (
            "enginery.yaml:5:25: models.q.variants.short.options.gpu_layer: "
            "unknown option; did you mean gpu_layers?"
        )
    ]


def test_a_broken_model_harms_no_other():
    models = catalog({"good": {}, "bad": {"options": {"x": 1}}, "worse": {"engine": "broken"}})
    assert models.resolve("good").variants
    for name in ("bad", "worse", "bad"):
        with pytest.raises(ConfigError):
            models.resolve(name)


def test_check_all_tells_everything_in_the_order_of_the_file(tmp_path):
    text = """\
defaults: {engine: nowhere}
models:
  a: {engine: typed, options: {gpu_layers: many, model: 7}}
  b: {engine: broken}
  c: {}
  d: {engine: openai}
  e: {engine: openai, url: "http://10.0.0.5:8000", args: [--fast]}
  f: {engine: openai, binary: s, args: [--json, '{"a": "{port}"}']}
"""
    models = from_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        models.check_all()
    assert lines(caught, tmp_path) == [
        "enginery.yaml:3:44: models.a.options.gpu_layers: needs a whole number, got 'many'",
        "enginery.yaml:3:57: models.a.options.model: needs text, got 7; put it in quotes",
        "enginery.yaml:4:15: models.b.engine: engine 'broken' is broken: ImportError: nope",
        "enginery.yaml:5:6: models.c: from defaults.engine: no plugin for engine 'nowhere'",
        "enginery.yaml:6:6: models.d: engine 'openai' needs `binary`, and `args` as it takes them",
        (
            "enginery.yaml:7:58: models.e.args: has no effect on a running server, which `url` "
            "without `binary` is"
        ),
    ]


def test_check_all_is_silent_when_all_is_well():
    catalog(
        {
            "a": {},
            "b": {"engine": "openai", "binary": "s", "url": "http://h:1"},
            "c": {"engine": "openai", "url": "https://h/openai/v1", "api_key": "k"},
            "d": {"engine": "typed", "url": "http://h:1", "upstream_model": "M"},
            "e": {"listen": "unix"},
        }
    ).check_all()


def test_engines_listen_as_the_defaults_say_unless_they_say_otherwise_or_have_a_url():
    models = {
        "a": {},
        "b": {"listen": "tcp"},
        "c": {"url": "http://h:1"},
        "d": {"variants": {"x": {"listen": "tcp"}, "y": {}}},
    }
    made = catalog(models, listen="unix")
    found = {v.id: v.listen for name in made.names() for v in made.resolve(name).variants}
    assert found == {
        "a/default": "unix",
        "b/default": "tcp",
        "c/default": "tcp",
        "d/x": "tcp",
        "d/y": "unix",
    }


def test_a_url_alone_attaches_with_a_key_that_is_never_shown():
    model = {"url": "http://h:1", "api_key": "hunter2", "upstream_model": "Qwen/Q"}
    (variant,) = (
        catalog({"a": model, "b": {"binary": "s", "url": "http://h:1"}}).resolve("a").variants
    )
    assert (variant.attached, variant.api_key, variant.body_model) == (True, "hunter2", "Qwen/Q")
    assert "hunter2" not in repr(variant)
    assert "hunter2" not in repr(Settings(models={"a": {"engine": "openai", **model}}))


# -- models from code -------------------------------------------------------------------------


def test_a_mapping_holds_fields_and_options():
    models = catalog(engine="plain")
    config = {"context_length": 9, "seed": 1, "options": {"x": 2}, "binary": "b", "url": None}
    variant = models.register("m", config)
    assert variant.options == {"seed": 1, "x": 2}
    assert (variant.context_length, variant.binary) == (9, "b")
    assert (variant.id, variant.engine_type) == ("m/default", "plain")
    assert models.resolve("m").variants == (variant,)
    assert models.names() == ["m"]


def test_the_same_configuration_is_the_same_variant():
    models = catalog()
    first = models.register("m", {"gpu_layers": "3"})
    assert models.register("m", {"options": {"gpu_layers": 3}}) is first
    assert (
        models.register("m", Variant("m", engine_type="typed", options={"gpu_layers": 3})) is first
    )
    assert len(models.resolve("m").variants) == 1


def test_another_configuration_gets_a_name_of_its_own():
    models = catalog()
    names = [models.register("m", {"gpu_layers": n}).name for n in (1, 2, 3, 2, 1)]
    assert names == ["default", "default-2", "default-3", "default-2", "default"]


def test_a_configured_model_takes_variants_from_code_too():
    models = catalog({"m": {"aliases": ["x"], "engine": "plain", "context_length": 10}})
    configured = models.resolve("m").variants[0]
    assert models.register("x", {"context_length": 10}) is configured
    added = models.register("x", {"context_length": 5})
    assert (added.id, added.engine_type) == ("m/default-2", "plain")
    assert models.resolve("m").variants == (added, configured)


def test_without_a_configuration_the_first_variant_is_meant():
    models = catalog(
        {"m": {"variants": {"big": {"context_length": 9}, "small": {"context_length": 3}}}}
    )
    assert models.register("m").name == "small"
    with pytest.raises(ModelNotFound):
        models.register("n")


def test_an_engine_type_alone_is_a_configuration():
    assert catalog().register("m", engine_type="plain").engine_type == "plain"
    assert catalog().register("m", {"engine": "plain"}).engine_type == "plain"


def test_a_variant_keeps_its_name_and_takes_the_models():
    models = catalog()
    variant = models.register("m", Variant("other", name="mine", engine_type="plain"))
    assert variant.id == "m/mine"


@pytest.mark.parametrize(
    ("config", "engine_type", "message"),
    [
        ({"gpu_layer": 1}, None, "m.options.gpu_layer: unknown option; did you mean gpu_layers?"),
        (
            {"paralel": 1},
            None,
            "m.options.paralel: unknown option; options here: gpu_layers, model",
        ),
        ({"parallel": 0}, None, "m.parallel: must be at least 1, got 0"),
        ({"model": "a", "options": {"model": "b"}}, None, "m: model given twice"),
        ({"options": 3}, None, "m.options: needs a mapping"),
        (
            {"connect": "http://h:1", "url": "http://h:1"},
            None,
            "m: `connect` and `url` are the same",
        ),
        (
            {"connect": "http://h:1", "work_dir": "/tmp"},
            "openai",
            "m.work_dir: has no effect on a running server",
        ),
        ({"url": "http://h:1", "listen": "unix"}, None, "m.listen: `url` says already where"),
        ({"api_key": "k"}, None, "m.api_key: is for a running server"),
        ({"binary": "b", "url": "https://h"}, None, "m.url: with `binary` needs the form http:"),
        ({"binary": "b", "url": "http://h/x"}, None, "m.url: with `binary` needs the form http:"),
        ({"listen": "udp"}, None, "m.listen: "),
        ({}, "openai", "m: engine 'openai' needs `binary`"),
        ({"engine": "typed"}, "plain", "m: engine is 'typed' and 'plain'; give one"),
        (Variant("m", engine_type="typed", options=7), None, "m.options: needs a mapping"),
    ],
)
def test_a_wrong_configuration_is_told_and_not_kept(config, engine_type, message):
    models = catalog()
    with pytest.raises(ConfigError) as caught:
        models.register("m", config, engine_type)
    assert str(caught.value).startswith(message)
    assert models.names() == []


def test_a_model_from_code_needs_a_usable_name_and_plugin():
    with pytest.raises(ConfigError, match="'a b': a model's name starts with"):
        catalog().register("a b", {})
    with pytest.raises(PluginError, match="ImportError: nope"):
        catalog().register("m", {}, "broken")


# -- files ------------------------------------------------------------------------------------


def test_a_file_becomes_the_model_of_the_plugin_that_knows_it():
    models = catalog(engine="plain")
    variant = models.from_path("/models/My Qwen (8b).gguf")
    assert variant.model == "My-Qwen-8b-"
    assert (variant.engine_type, variant.options.model) == ("typed", "/models/My Qwen (8b).gguf")
    assert models.from_path("/models/My Qwen (8b).gguf") is variant


def test_two_files_of_one_name_are_two_models():
    models = catalog({"q": {}})
    assert [models.from_path(f"{d}/q.gguf").model for d in "ab"] == ["q-2", "q-3"]
    assert len(models.resolve("q").variants) == 1


def test_a_file_that_nobody_knows_names_who_was_asked():
    with pytest.raises(ConfigError) as caught:
        catalog().from_path("notes.txt")
    assert str(caught.value) == (
        "no plugin knows what to do with notes.txt; asked: typed; "
        "engine 'broken' is broken: ImportError: nope"
    )


@given(st.text(alphabet=st.characters(exclude_characters="/\0", exclude_categories=["Cs"])))
def test_every_file_name_makes_a_models_name(stem):
    variant = catalog().from_path(f"/d/{stem}.gguf")
    assert check_model_name(variant.model) == variant.model
