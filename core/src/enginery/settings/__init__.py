"""The settings: what may be written in ``enginery.yaml``, and reading it with places in every error."""

from enginery.settings.explain import explain
from enginery.settings.fields import Seconds, check_model_name, parse_seconds
from enginery.settings.loading import load_settings
from enginery.settings.options import validate_options
from enginery.settings.places import Loc, Mark, Place, Problem, config_error, marks_of
from enginery.settings.schema import (
    Defaults,
    ModelSettings,
    PluginLists,
    Settings,
    VariantSettings,
)
from enginery.settings.server import KeySettings, ServerSettings

__all__ = [
    "Defaults",
    "KeySettings",
    "Loc",
    "Mark",
    "ModelSettings",
    "Place",
    "PluginLists",
    "Problem",
    "Seconds",
    "ServerSettings",
    "Settings",
    "VariantSettings",
    "check_model_name",
    "config_error",
    "explain",
    "load_settings",
    "marks_of",
    "parse_seconds",
    "validate_options",
]
