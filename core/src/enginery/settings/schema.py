"""What may be set: every field with its type, default, unit and meaning.

Knows: the settings and the rules between them. Does not know: files, the environment, or a plugin's
options (they stay a mapping here; `engine.catalog` validates them with the plugin's own model).
`docs/settings.md` is generated from the descriptions. A key that has no effect yet is not accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from enginery.errors import ConfigError
from enginery.settings.explain import explain, several
from enginery.settings.fields import (
    EngineURL,
    EnvironmentName,
    ModelName,
    PositiveSeconds,
    Seconds,
    Size,
    Text,
    VariantName,
    WholeNumber,
)
from enginery.settings.places import Layer, Loc, Mark, Problem, config_error, marks_of
from enginery.settings.section import Section, empty_if_null, without_nulls
from enginery.settings.server import ServerSettings

__all__ = ["Defaults", "Feature", "ModelSettings", "PluginLists", "Settings", "VariantSettings"]

Feature = Literal[
    "chat", "completions", "embeddings", "rerank", "tools", "images", "audio", "json_schema"
]


Options = Annotated[dict[str, Any], BeforeValidator(empty_if_null)]


class Defaults(Section):
    """What holds for every model that does not say otherwise, and for the manager as a whole."""

    engine: Text = Field(
        "llama.cpp", description="engine_type of models that name none; a plugin's name."
    )
    max_queue: WholeNumber = Field(
        512, ge=1, description="Requests that may wait for one model; the next gets 429."
    )
    max_wait: Seconds = Field(
        30.0, description="Seconds (or a duration) after which a waiting request's model is next."
    )
    queue_timeout: Seconds = Field(
        600.0, description="Seconds (or a duration) after which a waiting request is given up."
    )
    min_residency: Seconds = Field(
        5.0,
        description="Seconds (or a duration) for which a loaded engine that is in use is not swapped out.",
    )
    drain_timeout: Seconds = Field(
        60.0,
        description="Seconds (or a duration) in which requests may finish before an engine stops.",
    )
    stop_timeout: Seconds = Field(
        15.0,
        description="Seconds (or a duration) for an engine's whole stop plan; then it is killed.",
    )
    shutdown_timeout: Seconds = Field(
        30.0,
        description="Seconds (or a duration) in which requests may finish at shutdown, before engines stop.",
    )
    load_stall: PositiveSeconds = Field(
        60.0,
        description="Seconds (or a duration) for which a loading engine may show no progress.",
    )
    load_cap: PositiveSeconds = Field(
        1800.0, description="Seconds (or a duration) that loading may take, whatever the progress."
    )
    first_byte: PositiveSeconds = Field(
        300.0,
        description="Seconds (or a duration) in which an engine that got a request must begin to answer.",
    )
    stall: PositiveSeconds = Field(
        120.0,
        description="Seconds (or a duration) for which an engine may fall silent in the middle of a reply.",
    )
    on_disconnect: Literal["cancel", "drain"] = Field(
        "cancel",
        description="When a client leaves before its reply is complete: `cancel` tells the engine so, "
        "`drain` lets it finish.",
    )
    default_reply_tokens: WholeNumber = Field(
        512, ge=1, description="Tokens set aside for the reply of a request that sets no maximum."
    )
    listen: Literal["tcp", "unix"] = Field(
        "tcp",
        description="What engines listen on: a port of 127.0.0.1, or a unix socket that only this "
        "user can reach, where the engine offers that.",
    )
    priority: WholeNumber = Field(
        0, description="Of waiting requests, those of a model with a larger number go first."
    )
    ttl: Seconds = Field(
        900.0,
        description="Seconds (or a duration) after which an idle engine is stopped; 0: never.",
    )
    pin: bool = Field(
        False, description="An engine that is never stopped to make room, nor for being idle."
    )
    preload: bool = Field(False, description="Load the model when the manager starts.")
    sleep_after: Seconds = Field(
        0.0,
        description="Seconds (or a duration) after which an idle engine is put to sleep, where it "
        "can; 0: never.",
    )
    sleep_level: WholeNumber = Field(
        1,
        ge=0,
        description="How deeply engines that can sleep do so when idle or to make room; 0: never, "
        "they are stopped.",
    )


class PluginLists(Section):
    """Which plugins may be loaded. Names are distributions', compared as PyPI does."""

    allow: tuple[Text, ...] = Field(
        (), description="Distributions that may be loaded; empty allows all."
    )
    deny: tuple[Text, ...] = Field(
        (), description="Distributions that may not be loaded, whatever `allow` says."
    )


class VariantSettings(Section):
    """One way to run a model."""

    context_length: WholeNumber | None = Field(
        None,
        ge=1,
        description="Tokens per request, prompt and reply together; absent: the engine's own.",
    )
    parallel: WholeNumber = Field(
        1, ge=1, description="Requests that the engine works on at once (slots)."
    )
    options: Options = Field(
        default_factory=dict, description="The engine's own options; its plugin says which."
    )
    binary: Text | None = Field(
        None, min_length=1, description="Replaces the program of the engine's command line."
    )
    args: tuple[Text, ...] = Field(
        (),
        description="With `binary`: all arguments; without: added to those of the engine's plugin. "
        "{host}, {port} and {model} are filled in, with `listen: unix` also {socket}.",
    )
    env: Annotated[dict[EnvironmentName, Text], BeforeValidator(empty_if_null)] = Field(
        default_factory=dict, description="Added to the engine's environment."
    )
    work_dir: Text | None = Field(
        None, min_length=1, description="The engine's working directory; absent: the manager's."
    )
    stop_argv: tuple[Text, ...] = Field(
        (),
        description="A command to run after the engine has ended, such as `[docker, stop, NAME]` for "
        "a container, which signals do not reach; filled in as `args`.",
    )
    url: EngineURL | None = Field(
        None,
        description="Alone: a server that runs already, `https` and a path before its routes allowed; "
        "it is never started, stopped or swapped. With `binary`: where the started engine answers.",
    )
    api_key: Annotated[SecretStr, Field(min_length=1)] | None = Field(
        None,
        description="With `url` alone: the key that its server wants; best written as `${env.NAME}` or "
        "`file:PATH`.",
    )
    upstream_model: Text | None = Field(
        None,
        min_length=1,
        description="What the engine calls the model: replaces `model` in requests. Absent: the "
        "name that clients use.",
    )
    listen: Literal["tcp", "unix"] | None = Field(
        None, description="Overrides `defaults.listen` for this variant."
    )
    features: frozenset[Feature] | None = Field(
        None, description="What the model can do; absent: unknown, nothing is refused."
    )


class ModelSettings(VariantSettings):
    """A model: either one variant, written inline and called ``default``, or `variants`."""

    aliases: tuple[ModelName, ...] = Field((), description="Other names that clients may use.")
    engine: Text | None = Field(
        None, description="engine_type, a plugin's name; absent: `defaults.engine`."
    )
    variants: Annotated[dict[VariantName, VariantSettings], Field(min_length=1)] | None = Field(
        None, description="The model's variants by name; then none of their fields stand beside it."
    )
    first_byte: PositiveSeconds | None = Field(
        None, description="Overrides `defaults.first_byte`, in seconds or as a duration."
    )
    stall: PositiveSeconds | None = Field(
        None, description="Overrides `defaults.stall`, in seconds or as a duration."
    )
    on_disconnect: Literal["cancel", "drain"] | None = Field(
        None, description="Overrides `defaults.on_disconnect` for this model."
    )
    priority: WholeNumber | None = Field(
        None, description="Overrides `defaults.priority` for this model."
    )
    load_stall: PositiveSeconds | None = Field(
        None, description="Overrides `defaults.load_stall`, in seconds or as a duration."
    )
    load_cap: PositiveSeconds | None = Field(
        None, description="Overrides `defaults.load_cap`, in seconds or as a duration."
    )
    stop_timeout: Seconds | None = Field(
        None, description="Overrides `defaults.stop_timeout`, in seconds or as a duration."
    )
    default_reply_tokens: WholeNumber | None = Field(
        None, ge=1, description="Overrides `defaults.default_reply_tokens`."
    )
    ttl: Seconds | None = Field(
        None, description="Overrides `defaults.ttl`, in seconds or as a duration; 0: never."
    )
    pin: bool | None = Field(None, description="Overrides `defaults.pin`.")
    preload: bool | None = Field(None, description="Overrides `defaults.preload`.")
    sleep_after: Seconds | None = Field(
        None, description="Overrides `defaults.sleep_after`, in seconds or as a duration; 0: never."
    )
    sleep_level: WholeNumber | None = Field(
        None, ge=0, description="Overrides `defaults.sleep_level`; 0: never."
    )

    @model_validator(mode="after")
    def _inline_or_variants(self) -> ModelSettings:
        inline = sorted(self.model_fields_set & set(VariantSettings.model_fields))
        if self.variants is not None and inline:
            text = "stands beside `variants`; move it into each of them"
            raise several([((name,), text) for name in inline])
        return self

    def variant_settings(self) -> dict[str, VariantSettings]:
        """The variants by name, in the file's order; an inline one is ``default``."""
        return {"default": self} if self.variants is None else dict(self.variants)


_layers: ContextVar[Sequence[Layer]] = ContextVar("enginery_settings_layers", default=())
"""What `load_settings` has read, only while it builds a `Settings`: pydantic-settings asks a class
method for its sources, and they must be those of one call."""


class _LayerSource(PydanticBaseSettingsSource):
    """Hands a layer to pydantic-settings."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(
        self,
        field: FieldInfo,  # noqa: ARG002  # pydantic-settings' protocol
        field_name: str,
    ) -> tuple[Any, str, bool]:
        """One top-level value; pydantic-settings' protocol."""
        return self._layer.values.get(field_name), field_name, True

    def __call__(self) -> dict[str, Any]:
        return self._layer.values


class Settings(BaseSettings):
    """Everything that can be configured, as frozen values.

    ``Settings(models={...})`` from code takes exactly what it is given: it reads no file and no
    environment variable. `load_settings` reads both; what it is given as flags wins over the
    environment, that over the file, that over the defaults.

    Raises:
        ConfigError: with one line for each thing that is wrong.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    server: ServerSettings = Field(
        default_factory=ServerSettings, description="The gateway's address, keys and limits."
    )
    defaults: Defaults = Field(
        default_factory=Defaults, description="For all models, and for the manager."
    )
    budget: Annotated[dict[Text, Size], Field(min_length=1)] | None = Field(
        None,
        description="Bytes per device (`ram`, `gpu0`, ...) that engines may use together, such as "
        "`{gpu0: 24GiB}`; engines of known size then run beside each other. Absent: one at a time.",
    )
    plugins: PluginLists = Field(
        default_factory=PluginLists, description="Which plugins may be loaded."
    )
    models: Annotated[dict[ModelName, ModelSettings], BeforeValidator(empty_if_null)] = Field(
        default_factory=dict, description="Models by the name that clients ask for."
    )

    _file: Path | None = PrivateAttr(None)
    _marks: dict[Loc, Mark] = PrivateAttr(default_factory=dict)

    def __init__(
        self, *, _read: Sequence[Layer] = (), _file: Path | None = None, **values: Any
    ) -> None:
        # The highest layer comes first, as pydantic-settings orders sources; its marks win too.
        marks = marks_of(values)
        for layer in reversed(_read):
            marks |= layer.marks
        problems = [problem for layer in _read for problem in layer.problems]
        token = _layers.set(_read)
        try:
            super().__init__(**values)
        except ValidationError as error:
            # A value that could not be read has one problem, not two.
            known = {problem.loc for problem in problems if not problem.on_key}
            found = explain(error, type(self), marks)
            problems += [problem for problem in found if problem.loc not in known]
        finally:
            _layers.reset(token)
        if problems:
            raise config_error(problems, marks)
        self._file = _file
        self._marks = marks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic-settings' protocol
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # same
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then what `load_settings` read; pydantic-settings' own readers stay out."""
        return (init_settings, *(_LayerSource(settings_cls, layer) for layer in _layers.get()))

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(cls, value)

    @field_validator("models")
    @classmethod
    def _names_are_distinct(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        taken = {name: f"the name of model {name}" for name in models}
        found: list[tuple[Loc, str]] = []
        for name, model in models.items():
            for i, alias in enumerate(model.aliases):
                if alias in taken:
                    found.append(((name, "aliases", i), f"{alias!r} is already {taken[alias]}"))
                taken.setdefault(alias, f"an alias of model {name}")
        if found:
            raise several(found)
        return models

    def __eq__(self, other: object) -> bool:
        """Equal values; where they were read from does not count."""
        return isinstance(other, Settings) and all(
            getattr(self, name) == getattr(other, name) for name in type(self).model_fields
        )

    __hash__ = None  # type: ignore[assignment]  # holds mappings, like every settings model

    @property
    def file(self) -> Path | None:
        """The file that was read, as it was named; None when there was none."""
        return self._file

    @property
    def marks(self) -> Mapping[Loc, Mark]:
        """Where each value was written: for errors that are found later, in a plugin's options."""
        return self._marks

    def error(self, problems: Sequence[Problem]) -> ConfigError:
        """The error for problems found later, with their places."""
        return config_error(problems, self._marks)
