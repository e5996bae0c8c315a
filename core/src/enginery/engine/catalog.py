"""The models there are: settings and plugins' option models in, validated variants out.

Knows: names, aliases, variants, models that code adds, and which mapping is which variant. Does not
know: processes, states, requests. Does no I/O: a plugin is imported when the first model that uses it
is asked for, so one broken plugin harms only its own models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Literal

from pydantic import ValidationError

from enginery.engine.endpoints import endpoint_of_url
from enginery.errors import ConfigError, EngineryError, ModelNotFound, PluginError
from enginery.plugins import EngineHooks, PluginRegistry
from enginery.settings import (
    Loc,
    Problem,
    Settings,
    VariantSettings,
    check_model_name,
    config_error,
    explain,
    marks_of,
    validate_options,
)
from enginery.values import Endpoint, Variant

__all__ = ["Catalog", "Limits", "ModelEntry"]

_LISTED = 8
"""A message that says "no such model" lists the models when there are at most so many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """A model's own numbers, defaults filled in; times in seconds. See the settings' descriptions."""

    priority: int
    load_stall: float
    load_cap: float
    stop_timeout: float
    ttl: float
    pin: bool
    preload: bool
    sleep_after: float
    sleep_level: int
    default_reply_tokens: int
    first_byte: float
    stall: float
    on_disconnect: Literal["cancel", "drain"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model: its variants ascend by context length, those that do not say theirs last."""

    name: str
    aliases: tuple[str, ...]
    variants: tuple[Variant, ...]
    limits: Limits

    def variant(self, name: str) -> Variant:
        """The variant called ``name``.

        Raises:
            ConfigError: there is none; the message lists those there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in self.variants)
        raise ConfigError(f"{self.name} has no variant {name!r}; it has {names}", param="variant")


class Catalog:
    """The models of the settings, and those that code registers.

    Args:
        settings: already valid in themselves; options are validated here, when a model is asked for.
        registry: the plugins.
    """

    def __init__(self, settings: Settings, registry: PluginRegistry) -> None:
        self._settings = settings
        self._registry = registry
        self._entries: dict[str, ModelEntry] = {}
        self._registered: dict[str, list[Variant]] = {}
        self._paths: dict[str, Variant] = {}
        self._aliases = {
            alias: name for name, model in settings.models.items() for alias in model.aliases
        }

    def names(self) -> list[str]:
        """Every model's name: the settings' in their order, then the registered ones."""
        return list({**self._settings.models, **self._registered})

    def resolve(self, name: str) -> ModelEntry:
        """The model called ``name``, or with that alias.

        Raises:
            ModelNotFound: there is none; the nearest names are in the message.
            ConfigError: its settings are wrong, its plugin's options included, or the plugin cannot
                be used.
        """
        name = self._aliases.get(name, name)
        return self._entries.get(name) or self._entries.setdefault(name, self._entry(name))

    def preloads(self) -> list[str]:
        """The configured models that are to be loaded at the start."""
        return [name for name in self._settings.models if self.limits(name).preload]

    def limits(self, name: str) -> Limits:
        """The numbers of the model called ``name``; of one that there is not (any more), the defaults."""
        return self._limits(name)

    def variants(self) -> dict[str, Variant]:
        """Every variant by id, of the models whose settings are right."""
        found: dict[str, Variant] = {}
        for name in self.names():
            with suppress(EngineryError):
                found |= {variant.id: variant for variant in self.resolve(name).variants}
        return found

    def take_over(self, other: Catalog) -> None:
        """Keep what code has registered with ``other``; where ids are the same, the settings win."""
        self._paths = dict(other._paths)
        for name, variants in other._registered.items():
            model = self._settings.models.get(name)
            taken = () if model is None else model.variant_settings()
            kept = [variant for variant in variants if variant.name not in taken]
            if kept:
                self._registered[name] = kept
                self._entries.pop(name, None)

    def check_all(self) -> None:
        """Validate every model of the settings; imports the plugins that they use.

        Raises:
            ConfigError: one line for each problem of any of them.
        """
        problems = self.problems()
        if problems:
            raise self._settings.error(problems)

    def problems(self) -> list[Problem]:
        """What `check_all` finds."""
        return [p for name in self._settings.models for p in self._validate(name)[1]]

    def register(
        self,
        name: str,
        config: Mapping[str, Any] | Variant | None = None,
        engine_type: str | None = None,
    ) -> Variant:
        """The variant of model ``name`` that ``config`` describes; it is added if it is new.

        Args:
            name: the model's name or alias; an unknown one becomes a model of its own.
            config: a variant; or a mapping with a variant's fields (``connect`` is ``url``,
                ``engine`` the engine_type), where every other key counts as an option and None as
                not given. No config is the empty mapping where ``engine_type`` is given, else
                the model's first variant.
            engine_type: the plugin; None is the model's own, else ``defaults.engine``.

        An equal variant is the same one: it comes back as it is. A new one keeps its name (a mapping's
        is ``default``) where that is free, else gets ``-2``, ``-3``, ... behind it.

        Raises:
            ConfigError: name, fields or options are wrong.
            ModelNotFound: neither ``config`` nor ``engine_type``, and no such model.
            PluginError: no usable plugin for the engine_type.
        """
        name = self._aliases.get(name, name)
        if config is None and engine_type is None:
            return self.resolve(name).variants[0]
        try:
            check_model_name(name)
        except ValueError as error:
            raise ConfigError(f"{name!r}: {error}", param="model") from None
        if isinstance(config, Variant):
            variant = self._checked(name, config, engine_type)
        else:
            variant = self._from_mapping(name, config or {}, engine_type)
        known = self.resolve(name).variants if name in self.names() else ()
        for other in known:
            if replace(variant, name=other.name) == other:
                return other
        variant = replace(variant, name=_free(variant.name, {other.name for other in known}))
        self._registered.setdefault(name, []).append(variant)
        self._entries.pop(name, None)
        return variant

    def from_path(self, path: str) -> Variant:
        """A model for a file, as a plugin describes it; the same path gives the same variant.

        The first plugin that knows the file wins, ``defaults.engine`` before the others. The model's
        name is the file's stem, with a number where that is taken. Whether the file is there is the
        caller's affair.

        Raises:
            ConfigError: no plugin knows the file; those that were asked are named.
        """
        if path in self._paths:
            return self._paths[path]
        asked, unusable = [], []
        first = self._settings.defaults.engine
        for engine_type in sorted(self._registry.engine_types(), key=lambda t: (t != first, t)):
            try:
                hooks = self._registry.hooks(engine_type)
            except PluginError as error:
                unusable.append(str(error))
                continue
            if not hooks.implements("variant_from_path"):
                continue
            asked.append(engine_type)
            config = hooks.variant_from_path(path)
            if config is not None:
                stem = re.sub(r"[^\w.+@-]+", "-", PurePath(path).stem, flags=re.ASCII)
                name = _free(stem.lstrip("_.+@-")[:100] or "model", {*self.names(), *self._aliases})
                self._paths[path] = self.register(name, config, engine_type)
                return self._paths[path]
        who = f"asked: {', '.join(asked)}" if asked else "no installed plugin runs files"
        raise ConfigError("; ".join([f"no plugin knows what to do with {path}; {who}", *unusable]))

    # -- from settings -------------------------------------------------------------------------

    def _entry(self, name: str) -> ModelEntry:
        model = self._settings.models.get(name)
        if model is None and name not in self._registered:
            raise ModelNotFound(f"no model {name!r}; {self._hint(name)}", param="model")
        configured, problems = self._validate(name) if model else ((), [])
        if problems:
            raise self._settings.error(problems)
        found = [*configured, *self._registered.get(name, ())]
        found.sort(key=lambda v: (v.context_length is None, v.context_length or 0))
        return ModelEntry(name, model.aliases if model else (), tuple(found), self._limits(name))

    def _validate(self, name: str) -> tuple[tuple[Variant, ...], list[Problem]]:
        """The configured variants of one model and what is wrong with them."""
        model = self._settings.models[name]
        engine_type = model.engine or self._settings.defaults.engine
        at: Loc = ("models", name)
        try:
            hooks = self._registry.hooks(engine_type)
        except PluginError as error:
            from_default = "" if model.engine else "from defaults.engine: "
            return (), [Problem((*at, "engine") if model.engine else at, f"{from_default}{error}")]
        variants, problems = [], []
        for variant_name, given in model.variant_settings().items():
            inside: Loc = at if model.variants is None else (*at, "variants", variant_name)
            variant = self._variant(name, variant_name, engine_type, given)
            options, wrong = validate_options(
                hooks.variant_options(), given.options, (*inside, "options"), self._settings.marks
            )
            problems += [*wrong, *_unrunnable(variant, hooks, inside)]
            variants.append(replace(variant, options=options))
        return tuple(variants), problems

    def _hint(self, name: str) -> str:
        names = self.names()
        near = get_close_matches(name, [*names, *self._aliases], 3)
        hints = [f"did you mean {' or '.join(near)}?"] if near else []
        if not names:
            hints.append("no models are configured")
        elif len(names) <= _LISTED:
            hints.append(f"models: {', '.join(names)}")
        elif not near:
            hints.append(f"{len(names)} models are configured")
        return " ".join(hints)

    def _limits(self, name: str) -> Limits:
        model, defaults = self._settings.models.get(name), self._settings.defaults
        values = {field.name: getattr(defaults, field.name) for field in fields(Limits)}
        own = {key: getattr(model, key, None) for key in values}
        return Limits(**values | {key: value for key, value in own.items() if value is not None})

    # -- from code -----------------------------------------------------------------------------

    def _engine_type(self, name: str, asked: str | None) -> str:
        model = self._settings.models.get(name)
        return asked or (model.engine if model else None) or self._settings.defaults.engine

    def _from_mapping(
        self, name: str, config: Mapping[str, Any], engine_type: str | None
    ) -> Variant:
        given, options = _split(name, config)
        engine_type = _agreed(name, given.pop("engine", None), engine_type)
        engine_type = self._engine_type(name, engine_type)
        at: Loc = (name,)
        try:
            settings = VariantSettings.model_validate(given)
        except ValidationError as error:
            marks = marks_of(given, at=at)
            raise config_error(explain(error, VariantSettings, marks, at=at), {}) from None
        variant = self._variant(name, "default", engine_type, settings)
        return self._checked(name, replace(variant, options=options), engine_type)

    def _checked(self, name: str, variant: Variant, engine_type: str | None) -> Variant:
        """``variant`` as one of model ``name``, its options validated."""
        engine_type = _agreed(name, variant.engine_type, engine_type)
        hooks = self._registry.hooks(engine_type or variant.engine_type)
        marks = marks_of(variant.options, at=(name, "options"))
        options, problems = validate_options(
            hooks.variant_options(), variant.options, (name, "options"), marks
        )
        problems += _unrunnable(variant, hooks, (name,))
        if problems:
            raise config_error(problems, {})
        return replace(variant, model=name, options=options)

    def _variant(self, model: str, name: str, engine_type: str, given: VariantSettings) -> Variant:
        """The value for one variant's settings, its options not yet validated."""
        listen = self._settings.defaults.listen if given.url is None else "tcp"
        return Variant(
            model=model,
            name=name,
            engine_type=engine_type,
            context_length=given.context_length,
            parallel=given.parallel,
            options=dict(given.options),
            binary=given.binary,
            args=given.args,
            env=dict(given.env),
            work_dir=given.work_dir,
            url=given.url,
            features=given.features,
            listen=given.listen or listen,
            api_key=None if given.api_key is None else given.api_key.get_secret_value(),
            upstream_model=given.upstream_model,
            stop_argv=given.stop_argv,
        )


def _unrunnable(variant: Variant, hooks: EngineHooks, at: Loc) -> list[Problem]:
    """Why this variant can neither be started nor attached to, and what would have no effect."""
    if variant.url and variant.listen == "unix":
        return [Problem((*at, "listen"), "`url` says already where the engine answers")]
    if variant.attached:
        text = "has no effect on a running server, which `url` without `binary` is"
        started = ("args", "env", "work_dir", "stop_argv")
        return [Problem((*at, key), text) for key in started if getattr(variant, key)]
    if variant.api_key is not None:
        text = "is for a running server, which `url` without `binary` is; others get a new one each time"
        return [Problem((*at, "api_key"), text)]
    if variant.binary:
        where = None if variant.url is None else endpoint_of_url(variant.url)
        if where is None or replace(where, host="", port=0) == Endpoint("", 0):
            return []
        text = "with `binary` needs the form http://127.0.0.1:8081"
        return [Problem((*at, "url"), text)]
    if hooks.implements("build_command") or hooks.implements("create_backend"):
        return []
    return [
        Problem(at, f"engine {variant.engine_type!r} needs `binary`, and `args` as it takes them")
    ]


def _split(name: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A mapping from code: the variant's fields (and ``engine``), and the options.

    Raises:
        ConfigError: something is given twice.
    """
    given = {key: value for key, value in config.items() if value is not None}
    if "connect" in given:
        if "url" in given:
            raise ConfigError(f"{name}: `connect` and `url` are the same; give one", param="url")
        given["url"] = given.pop("connect")
    options = given.pop("options", {})
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name}.options: needs a mapping of keys to values", param="options")
    known = {*VariantSettings.model_fields, "engine"}
    beside = {key: given.pop(key) for key in list(given) if key not in known}
    twice = sorted(set(beside) & set(options))
    if twice:
        raise ConfigError(
            f"{name}: {', '.join(twice)} given twice, in `options` and beside it", param=twice[0]
        )
    return given, {**options, **beside}


def _agreed(name: str, one: str | None, other: str | None) -> str | None:
    """The engine_type that two sources name, or the only one named."""
    if one and other and one != other:
        raise ConfigError(f"{name}: engine is {one!r} and {other!r}; give one", param="engine")
    return one or other


def _free(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name-2``, ``name-3``, ... that is not taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
